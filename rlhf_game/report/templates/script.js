"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const fold = document.getElementById("fold");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const say = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", theme.textContent + " colours"); };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; say(); });
  prefersDark.addEventListener("change", say);
  say();

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
  theme.hidden = fold.hidden = false;
})();
