"use strict";
// A game that a reader may cheat in. Each element of class "play" holds {game, truth, story} as JSON in data-game.
(() => {
  const POINTS = 40;
  const SVG = "http://www.w3.org/2000/svg";
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const total = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const show = (x) => (x <= -5e-4 ? "\u2212" : "") + Math.abs(x).toFixed(3);
  const signed = (x) => (Math.abs(x) < 5e-4 ? "\u00b1" : x > 0 ? "+" : "\u2212") + Math.abs(Math.abs(x) < 5e-4 ? 0 : x).toFixed(3);
  const listed = (items) => (items.length > 1 ? `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}` : `${items[0]}`);
  const percent = (x) => (100 * x).toFixed(x < 0.0995 ? 1 : 0) + " %";

  function make(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in node && key !== "list") node[key] = value; else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }
  function draw(tag, properties, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // A deterministic generator (mulberry32): the same page tries the same lies on every machine.
  function generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  // The rules of one game: what may be said, and what everybody gets for it.
  function rulesOf({ game, truth }) {
    const top = Math.max(...truth.flatMap((group) => group.reward.flat())) || 1;
    const limit = game.sizeLimit;
    const fit = (reward) => reward.map((row) => {
      if (game.normalization === "none") return row;
      const whole = game.normalization === "sum" ? total(row) : Math.max(...row);
      return whole > 0 ? row.map((r) => r / whole) : row.map(() => (game.normalization === "sum" ? 1 / row.length : 1));
    });
    const outcome = (reports) => {
      const result = Settlement.settle(game, reports);
      const worth = truth.map((group) => group.size * Settlement.value(game, result.policy, group.reward));
      return { ...result, worth };
    };
    const honest = outcome(truth);
    const said = (changes) => truth.map((group, i) => changes[i] || group);

    // Climb from several reports of the members; objective(result) is what they want more of. A lower bound by nature.
    function climb(members, objective, seed, rounds = 3) {
      const random = generator(seed);
      const settleWith = (changes) => objective(outcome(said(changes)));
      let best = { gain: -Infinity, changes: null };
      const extremes = (group, threshold) => fit(group.reward.map((row) => row.map((r) => (r >= threshold ? top : 0))));
      const starts = [Object.fromEntries(members.map((i) => [i, copy(truth[i])]))];
      const levels = [...new Set(members.flatMap((i) => truth[i].reward.flat()))];
      for (const level of levels) {
        for (const size of [limit, 1]) {
          starts.push(Object.fromEntries(members.map((i) => [i, { reward: extremes(truth[i], level), size }])));
        }
      }
      for (let k = 0; k < 12; k += 1) {
        starts.push(Object.fromEntries(members.map((i) => [i, {
          reward: fit(truth[i].reward.map((row) => row.map(() => top * random()))),
          size: 1 + Math.floor(limit * random()) }])));
      }
      let tried = 0;
      for (const start of starts) {
        let changes = start;
        let reached = settleWith(changes);
        for (let round = 0; round < rounds; round += 1) {
          for (const i of members) {
            for (const size of [1, truth[i].size, limit, changes[i].size + 1, changes[i].size - 1]) {
              if (size < 1 || size > limit) continue;
              const next = { ...changes, [i]: { ...changes[i], size } };
              const found = settleWith(next);
              tried += 1;
              if (found > reached) { reached = found; changes = next; }
            }
            changes[i].reward.forEach((row, b) => row.forEach((_, x) => {
              for (const level of [0, top, row[x] * 0.7, Math.min(top, row[x] * 1.3 + 0.02 * top)]) {
                const reward = copy(changes[i].reward);
                reward[b][x] = level;
                const next = { ...changes, [i]: { ...changes[i], reward: fit(reward) } };
                const found = settleWith(next);
                tried += 1;
                if (found > reached) { reached = found; changes = next; }
              }
            }));
          }
        }
        if (reached > best.gain) best = { gain: reached, changes };
      }
      return { ...best, tried };
    }
    return { game, truth, top, limit, fit, outcome, honest, said, climb };
  }

  // What group i gets, with and without payments, when the reports are these.
  function utilities(rules, reports, i) {
    const result = rules.outcome(reports);
    return { free: result.worth[i], paid: result.worth[i] - result.payments[i], result };
  }

  // The bill of group i in two parts: what the others lose by its report, and what the provider's closeness costs.
  function bill(rules, reports, i) {
    const mu = rules.game.weights || reports.map(() => 1);
    const without = Settlement.settle(rules.game, reports.map((one, j) => (j === i ? { ...one, size: 0 } : one)));
    const now = Settlement.settle(rules.game, reports);
    const others = total(reports.map((one, j) => (j === i ? 0 : mu[j] * one.size * (without.values[j] - now.values[j]))));
    return { total: now.payments[i], others: others / mu[i], provider: now.payments[i] - others / mu[i] };
  }

  function curve(rules, reports, i, at) {
    const points = [];
    for (let k = 0; k <= POINTS; k += 1) points.push({ x: k / POINTS, ...utilities(rules, reports.map((one, j) => (j === i ? at(k / POINTS) : one)), i) });
    return points;
  }

  // Two curves over one axis, the truth as a dashed line under a name of its own band, the present report as two dots.
  function plot(figure, { points, now, truthAt, truthName, left, right, label, paid }) {
    const [W, H, L, R, T, B] = [340, 206, 44, 12, 30, 30];
    const ys = points.flatMap((p) => (paid ? [p.free, p.paid] : [p.free]));
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const pad = (high - low || 1) * 0.08;
    const x = (t) => L + t * (W - L - R);
    const y = (v) => T + (high + pad - v) / (high - low + 2 * pad) * (H - T - B);
    const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
    for (const v of [low, (low + high) / 2, high]) {
      svg.append(draw("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }));
      svg.append(draw("text", { class: "tick", x: L - 6, y: y(v) + 4, "text-anchor": "end" }, (v <= -0.005 ? "\u2212" : "") + Math.abs(v).toFixed(2)));
    }
    svg.append(draw("line", { class: "mark-line", x1: x(truthAt), x2: x(truthAt), y1: T - 8, y2: H - B }));
    const side = truthAt < 0.2 ? "start" : truthAt > 0.8 ? "end" : "middle";
    svg.append(draw("text", { class: "tick", x: x(truthAt), y: T - 14, "text-anchor": side }, truthName));
    for (const [key, slot] of paid ? [["free", 1], ["paid", 0]] : [["free", 1]]) {
      const d = points.map((p, k) => `${k ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p[key]).toFixed(1)}`).join("");
      svg.append(draw("path", { class: `curve s${slot}${key === "free" ? " dashed" : ""}`, d }));
      const here = points[Math.round(now * POINTS)];
      svg.append(draw("circle", { class: `mark s${slot}`, cx: x(now), cy: y(here[key]), r: 6 }));
    }
    svg.append(draw("text", { class: "tick", x: L, y: H - 8 }, left));
    svg.append(draw("text", { class: "tick", x: W - R, y: H - 8, "text-anchor": "end" }, right));
    figure.replaceChildren(svg);
  }

  const KEY = "rlhf-game-scores";
  const NAMES = { free: "Lying alone, nobody pays", paid: "Lying alone, with payments", together: "Two groups together, with payments",
    names: "One group under several names, with payments", provider: "The provider, with an invented group" };
  function scores(rules) {
    let kept = {};
    const mine = JSON.stringify([rules.game, rules.truth]).split("").reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) | 0, 7);
    try { kept = JSON.parse(localStorage.getItem(`${KEY}-${mine}`)) || {}; } catch { kept = {}; }
    const table = make("tbody");
    const render = () => table.replaceChildren(...Object.entries(NAMES).map(([key, name]) => make("tr", {},
      make("th", { scope: "row" }, name), make("td", { className: "n" }, key in kept ? signed(kept[key]) : "not tried"))));
    const note = (key, gain) => {
      if (key in kept && kept[key] >= gain - 1e-12) return;
      kept[key] = gain;
      try { localStorage.setItem(`${KEY}-${mine}`, JSON.stringify(kept)); } catch { /* a page of a private window keeps nothing */ }
      render();
    };
    const forget = () => { kept = {}; try { localStorage.removeItem(`${KEY}-${mine}`); } catch { /* likewise */ } render(); };
    render();
    return { table, note, forget };
  }

  function mount(root) {
    const data = JSON.parse(root.dataset.game);
    const rules = rulesOf(data);
    const { truth, game } = rules;
    const state = { me: 0, prompt: 0, paid: !data.story, reports: copy(truth), partner: truth.length > 1 ? 1 : null, names: 2 };
    const board = scores(rules);
    const parts = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    const mine = () => state.reports[state.me];
    const labels = () => data.outcomes[state.prompt];
    const isTruth = () => JSON.stringify(state.reports) === JSON.stringify(truth);

    function chooser(label, names, at, pick) {
      const select = make("select", { "aria-label": label });
      names.forEach((name, k) => select.append(make("option", { value: String(k), selected: k === at }, name)));
      select.addEventListener("change", () => pick(Number(select.value)));
      return make("label", { className: "choose" }, `${label} `, select);
    }
    function slider(name, value, most, step, describe, change) {
      const input = make("input", { type: "range", min: "0", max: String(most), step: String(step), "aria-label": name });
      input.value = String(value);
      input.setAttribute("aria-valuetext", describe(value));
      input.addEventListener("input", () => { parts.searched.textContent = ""; change(Number(input.value)); input.setAttribute("aria-valuetext", describe(Number(input.value))); });
      return input;
    }

    const rows = [];
    function controls() {
      const names = truth.map((group) => group.name);
      const top = [chooser("You are", names, state.me, (k) => { state.me = k; state.partner = k === 0 ? 1 : 0; state.reports = copy(truth); controls(); update(); })];
      if (data.outcomes.length > 1) top.push(chooser("Prompt", data.prompts, state.prompt, (k) => { state.prompt = k; controls(); update(); }));
      parts.who.replaceChildren(...top);
      rows.length = 0;
      const list = labels().map((label, x) => {
        const real = truth[state.me].reward[state.prompt][x];
        const said = make("output", { className: "said" });
        const input = slider(`What you say this is worth to you: ${label}`, mine().reward[state.prompt][x], rules.top, rules.top / 100,
          (v) => `${show(v)}, in truth ${show(real)}`, (v) => {
            const reward = copy(mine().reward);
            reward[state.prompt][x] = v;
            state.reports[state.me] = { ...mine(), reward };
            update();
          });
        const tick = make("i", { className: "true", title: `in truth ${show(real)}`, "aria-hidden": "true" });
        tick.style.setProperty("--at", String(real / rules.top));
        rows.push({ input, said, x });
        return make("li", {}, make("bdi", {}, label), make("span", { className: "slide" }, input, tick), said);
      });
      parts.sliders.replaceChildren(...list);
      const members = make("output", { className: "said" });
      const input = slider("How many members you say you have", mine().size, rules.limit, 1, (v) => `${v} members, in truth ${truth[state.me].size}`,
        (v) => { state.reports[state.me] = { ...mine(), size: Math.max(1, v) }; update(); });
      input.min = "1";
      const tick = make("i", { className: "true", "aria-hidden": "true" });
      tick.style.setProperty("--at", String((truth[state.me].size - 1) / Math.max(1, rules.limit - 1)));
      rows.push({ input, said: members, x: null });
      parts.size.replaceChildren(make("bdi", {}, "Members"), make("span", { className: "slide" }, input, tick), members);
      actTwo();
    }

    function actTwo() {
      if (!parts.together) return;
      const others = truth.map((group, k) => [group.name, k]).filter(([, k]) => k !== state.me);
      parts.partner.replaceChildren(chooser("Your friend", others.map(([name]) => name), others.findIndex(([, k]) => k === state.partner), (at) => { state.partner = others[at][1]; }));
    }

    const sent = () => state.reports.map((one) => ({ ...one, reward: rules.fit(one.reward) }));
    function update() {
      const reports = sent();
      const me = state.me;
      const honest = utilities(rules, truth, me);
      const now = utilities(rules, reports, me);
      rows.forEach(({ input, said, x }) => {
        const value = x === null ? mine().size : mine().reward[state.prompt][x];
        if (Number(input.value) !== value) input.value = String(value);
        const real = x === null ? truth[me].size : truth[me].reward[state.prompt][x];
        said.textContent = x === null ? `${value}` : show(reports[me].reward[state.prompt][x]);
        said.classList.toggle("lie", Math.abs(value - real) > 1e-12);
      });
      policy(honest.result.policy[state.prompt], now.result.policy[state.prompt]);
      numbers(honest, now);
      const lie = reports[me];
      const between = (t) => ({ size: truth[me].size + t * (lie.size - truth[me].size), reward: lie.reward.map((row, b) => row.map((r, x) => truth[me].reward[b][x] + t * (r - truth[me].reward[b][x]))) });
      plot(parts.curve, { points: curve(rules, reports, me, between), now: 1, truthAt: 0, truthName: "the truth", left: "what is true", right: "what you say", paid: state.paid,
        label: "Your utility on the way from your true wishes to what you say" });
      const sized = (t) => ({ ...lie, size: 1 + t * (rules.limit - 1) });
      const at = (size) => (rules.limit > 1 ? (size - 1) / (rules.limit - 1) : 0);
      plot(parts.sizes, { points: curve(rules, reports, me, sized), now: at(lie.size), truthAt: at(truth[me].size), truthName: `you are ${truth[me].size}`, left: "1 member", right: `${rules.limit} members`,
        paid: state.paid, label: "Your utility against the number of members that you claim" });
      invoice(reports, now);
      if (!isTruth()) {
        const alone = reports.every((one, j) => j === me || JSON.stringify(one) === JSON.stringify(truth[j]));
        if (alone) { board.note("free", now.free - honest.free); board.note("paid", now.paid - honest.paid); }
      }
      root.dispatchEvent(new CustomEvent("played", { detail: { gainFree: now.free - honest.free, gainPaid: now.paid - honest.paid } }));
    }

    function policy(before, after) {
      parts.policy.replaceChildren(...labels().map((label, x) => {
        const bar = make("span", { className: "bar-track" }, make("i", { className: "after" }), make("i", { className: "honest" }));
        bar.style.setProperty("--after", String(after[x]));
        bar.style.setProperty("--honest", String(before[x]));
        return make("li", {}, make("bdi", {}, label), bar, make("span", { className: "said" }, percent(after[x])));
      }));
    }

    function numbers(honest, now) {
      const cell = (kind, a, b) => [make("td", { className: "n" }, show(a)), make("td", { className: "n" }, show(b)),
        make("td", { className: `n ${b - a > 5e-4 ? "more" : b - a < -5e-4 ? "less" : ""}`, "data-gain": kind }, signed(b - a))];
      const body = [make("tr", {}, make("th", { scope: "row" }, "without payments"), ...cell("free", honest.free, now.free))];
      if (state.paid) body.push(make("tr", {}, make("th", { scope: "row" }, "with payments"), ...cell("paid", honest.paid, now.paid)));
      parts.numbers.replaceChildren(...body);
      const gain = state.paid ? now.paid - honest.paid : now.free - honest.free;
      const words = isTruth() ? "You are telling the truth." : gain > 5e-4 ? `This lie gains you ${show(gain)}.` : gain < -5e-4 ? `This lie costs you ${show(-gain)}.` : "This lie changes nothing for you.";
      parts.verdict.textContent = words;
      parts.verdict.className = `verdict ${isTruth() ? "" : gain > 5e-4 ? "more" : gain < -5e-4 ? "less" : ""}`;
    }

    function invoice(reports, now) {
      if (!parts.bill) return;
      const due = bill(rules, reports, state.me);
      const worth = now.result.worth[state.me];
      const line = (name, amount, strong) => make("tr", {}, make("th", { scope: "row" }, name), make("td", { className: strong ? "n strong" : "n" }, show(amount)));
      parts.bill.replaceChildren(line("What the model is worth to you now", worth), line(due.others >= 0 ? "What your report takes from the others" : "What your report gives the others", due.others),
        line(due.provider >= 0 ? "What it costs to move the model further" : "What it saves in moving the model", due.provider), line("Your bill (the last two added up)", due.total, true),
        line("Left for you", worth - due.total, true));
    }

    // The best lie: a search, started where lies are known to be good. It is a lower bound on what lying could gain.
    function bestLie() {
      const me = state.me;
      const want = state.paid ? (result) => result.worth[me] - result.payments[me] : (result) => result.worth[me];
      const found = rules.climb([me], want, 1);
      state.reports = copy(truth);
      state.reports[me] = { ...truth[me], ...copy(found.changes[me]) };
      const gain = found.gain - want(rules.honest);
      if (gain < 1e-9) state.reports = copy(truth);
      controls();
      update();
      parts.searched.textContent = gain < 1e-9 ? `${found.tried} lies were tried. None gains anything: the truth is your best report.` : `${found.tried} lies were tried. This one gains ${show(gain)}.`;
      return { gain, tried: found.tried };
    }
    function everybody() {
      state.reports = truth.map((group) => {
        const best = Math.max(...group.reward[0]);
        return { ...group, size: rules.limit, reward: rules.fit(group.reward.map((row) => row.map((r) => (r >= Math.max(...row) * 0.999 || r === best ? rules.top : 0)))) };
      });
      controls();
      update();
      const result = rules.outcome(sent());
      parts.searched.textContent = `When everybody exaggerates, all groups together get ${show(total(result.worth))} instead of ${show(total(rules.honest.worth))}.`;
    }
    function together() {
      const pair = [state.me, state.partner];
      const want = (result) => total(pair.map((i) => result.worth[i] - result.payments[i]));
      const found = rules.climb(pair, want, 2);
      const gain = found.gain - want(rules.honest);
      board.note("together", gain);
      state.reports = copy(truth);
      pair.forEach((i) => { state.reports[i] = { ...truth[i], ...copy(found.changes[i]) }; });
      controls();
      update();
      parts.together.textContent = gain > 5e-4 ? `${truth[pair[0]].name} and ${truth[pair[1]].name} gain ${show(gain)} together, payments and all: each says what makes the other's bill smaller.` : "Nothing that these two could say together was found to gain.";
    }
    function severalNames(count) {
      const me = state.me;
      const size = truth[me].size;
      const parts_ = Array.from({ length: Math.min(count, size) }, (_, k) => Math.floor(size / count) + (k < size % count ? 1 : 0)).filter((w) => w > 0);
      const split = [...truth.filter((_, j) => j !== me), ...parts_.map((w) => ({ ...truth[me], size: w }))];
      const mu = game.weights && [...game.weights.filter((_, j) => j !== me), ...parts_.map(() => game.weights[me])];
      const result = Settlement.settle({ ...game, weights: mu }, split);
      const paid = total(result.payments.slice(truth.length - 1));
      const gain = rules.honest.payments[me] - paid;
      board.note("names", gain);
      parts.names.textContent = `As ${parts_.length} groups of ${listed(parts_)} members you say exactly the truth and the model stays the same, but your bills add up to ${show(paid)} instead of ${show(rules.honest.payments[me])}: ${gain > 5e-4 ? "you keep" : "a change of"} ${show(gain)}.`;
    }
    function invent() {
      const random = generator(3);
      const revenue = (extra) => {
        const result = Settlement.settle({ ...game, weights: game.weights && [...game.weights, 1] }, [...truth, extra]);
        return total(result.payments.slice(0, truth.length));
      };
      const honest = total(rules.honest.payments);
      let best = null;
      for (let start = 0; start < 20; start += 1) {
        let extra = { reward: rules.fit(game.reference.map((row) => row.map(() => (random() < 0.5 ? 0 : rules.top)))), size: rules.limit };
        let reached = revenue(extra);
        for (let round = 0; round < 3; round += 1) {
          extra.reward.forEach((row, b) => row.forEach((_, x) => {
            for (const level of [0, rules.top / 2, rules.top]) {
              const reward = copy(extra.reward);
              reward[b][x] = level;
              const next = { ...extra, reward: rules.fit(reward) };
              const found = revenue(next);
              if (found > reached) { reached = found; extra = next; }
            }
          }));
        }
        if (!best || reached > best.reached) best = { reached, extra };
      }
      const gain = best.reached - honest;
      board.note("provider", gain);
      const favourite = best.extra.reward[0].indexOf(Math.max(...best.extra.reward[0]));
      parts.provider.textContent = gain > 5e-4 ? `Honest revenue: ${show(honest)}. With an invented group of ${best.extra.size} that wants \u201c${data.outcomes[0][favourite]}\u201d the real groups pay ${show(best.reached)}: ${show(gain)} more, and every single bill still adds up.` : `Honest revenue: ${show(honest)}. No invented group was found that brings more.`;
    }

    const press = (name, action) => { if (parts[name]) parts[name].addEventListener("click", action); };
    press("truthful", () => { state.reports = copy(truth); controls(); update(); parts.searched.textContent = ""; });
    press("best", bestLie);
    press("everybody", everybody);
    press("collude", together);
    press("split", () => severalNames(3));
    press("invent", invent);
    press("forget", board.forget);
    const pays = (paid) => {
      state.paid = paid;
      root.classList.toggle("paying", paid);
      if (parts.charge) parts.charge.checked = paid;
      update();
    };
    if (parts.charge) parts.charge.addEventListener("change", () => pays(parts.charge.checked));
    if (parts.board) parts.board.replaceChildren(board.table);
    controls();
    pays(state.paid);
    root.hidden = false;
    root.api = { state, rules, bestLie, bill: () => bill(rules, sent(), state.me), pays };

    const steps = [...root.querySelectorAll(".step")];
    if (!steps.length) return;
    let step = 0;
    const go = (to) => {
      step = Math.max(0, Math.min(steps.length - 1, to));
      steps.forEach((node, k) => node.classList.toggle("away", k !== step));
      root.dataset.step = String(step + 1);
      parts.place.textContent = `${step + 1} of ${steps.length}`;
      parts.back.disabled = step === 0;
      parts.next.disabled = step === steps.length - 1;
      parts.skip.hidden = step === steps.length - 1;
      if (steps[step].dataset.pays) pays(steps[step].dataset.pays === "yes");
    };
    press("back", () => { go(step - 1); parts.story.focus(); });
    press("next", () => { go(step + 1); parts.story.focus(); });
    press("skip", () => { go(steps.length - 1); });
    root.classList.add("stepped");
    go(0);
  }

  document.querySelectorAll(".play").forEach(mount);
})();
