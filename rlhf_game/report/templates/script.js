"use strict";
(() => {
  const fold = document.getElementById("fold");
  const folded = () => Array.from(document.querySelectorAll("details"));
  fold.addEventListener("click", () => {
    const open = fold.getAttribute("aria-pressed") !== "true";
    folded().forEach((part) => { part.open = open; });
    fold.setAttribute("aria-pressed", String(open));
    fold.textContent = open ? "Close all" : "Open all";
  });
  const shows = [];
  document.querySelectorAll(".slices").forEach((bar) => {
    const figure = bar.closest("figure");
    const buttons = Array.from(bar.querySelectorAll("button"));
    const panels = Array.from(figure.querySelectorAll(".panel[data-slice]"));
    const show = (slice) => {
      buttons.forEach((button) => { button.setAttribute("aria-pressed", String(button.dataset.slice === slice)); });
      panels.forEach((panel) => { panel.classList.toggle("away", panel.dataset.slice !== slice); });
    };
    shows.push((name) => {
      const button = buttons.find((one) => one.textContent === name);
      if (button) show(button.dataset.slice);
    });
    buttons.forEach((button) => {
      button.addEventListener("click", () => { shows.forEach((one) => one(button.textContent)); });
    });
    figure.classList.add("sliced");
    bar.hidden = false;
    show("0");
  });

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = folded().filter((part) => !part.open && !part.classList.contains("data"));
    closed.forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => { closed.forEach((part) => { part.open = false; }); });
  fold.hidden = false;
})();
