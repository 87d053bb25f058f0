"use strict";
// A game that a reader may cheat in. Each element of class "play" holds {game, truth, story} as JSON in data-game.
(() => {
  const POINTS = 40;
  const ROUNDS = 3; // of each search
  const SVG = "http://www.w3.org/2000/svg";
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const total = (numbers) => numbers.reduce((a, b) => a + b, 0);
  // Which way a number goes, where its third digit shows it.
  const way = (x) => (x >= 5e-4 ? "more" : x <= -5e-4 ? "less" : "");
  const show = (x, digits = 3) => (x <= -0.5 / 10 ** digits ? "\u2212" : "") + Math.abs(x).toFixed(digits);
  const signed = (x) => ({ more: "+", less: "\u2212", "": "\u00b1" })[way(x)] + Math.abs(x).toFixed(3);
  const listed = (items) => (items.length > 1 ? `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}` : `${items[0]}`);
  const upper = (text) => text[0].toUpperCase() + text.slice(1);
  const percent = (x) => (100 * x).toFixed(x < 0.0995 ? 1 : 0) + " %";

  function make(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in node) node[key] = value; else node.setAttribute(key, value);
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
    // What the model is tuned for, by the true wishes: no reports make it more than the true ones do.
    const net = (result, worths = result.worth) => total(worths.map((worth, i) => game.weights[i] * worth)) + (game.boosts ? Settlement.value(game, result.policy, game.boosts) : 0) - game.strength * result.divergence;
    const honest = outcome(truth);

    // Climb from several reports of the members (and from the other ones given), the rest reporting as in base; objective(result) is what the members
    // want more of. A lower bound by nature.
    function climb(base, members, objective, seed, others = []) {
      const random = generator(seed);
      const settleWith = (changes) => objective(outcome(base.map((one, i) => changes[i] || one)));
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
      for (const start of [...starts, ...others]) {
        let changes = start;
        let reached = settleWith(changes);
        for (let round = 0; round < ROUNDS; round += 1) {
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
    return { game, truth, top, limit, fit, outcome, net, honest, climb };
  }

  // What group i gets when the reports are these, with and without payments; and what all get less what moving the model
  // costs, by the truth of i and what the others say, in points of i: that and "paid" differ by what i cannot change.
  function utilities(rules, reports, i) {
    const result = rules.outcome(reports);
    const worths = result.worth.map((worth, j) => (j === i ? worth : reports[j].size * result.values[j]));
    const all = rules.net(result, worths) / rules.game.weights[i];
    return { free: result.worth[i], paid: result.worth[i] - result.payments[i], all, result };
  }

  // The bill of group i in two parts: what the others lose by its report, and what the provider's closeness costs.
  // now: how the reports are settled.
  function bill({ game }, reports, i, now) {
    const without = Settlement.settle(game, reports.map((one, j) => (j === i ? { ...one, size: 0 } : one)));
    const lost = reports.map((one, j) => (j === i ? 0 : game.weights[j] * one.size * (without.values[j] - now.values[j])));
    const others = total(lost) / game.weights[i];
    return { total: now.payments[i], others, provider: now.payments[i] - others, lost: lost.map((x) => x / game.weights[i]) };
  }

  function curve(rules, reports, i, at) {
    const points = [];
    for (let k = 0; k <= POINTS; k += 1) points.push({ x: k / POINTS, ...utilities(rules, reports.map((one, j) => (j === i ? at(k / POINTS) : one)), i) });
    return points;
  }

  // Two curves over one axis from 0 (or the lowest loss) to the most that can be got, the truth as a dashed line under a name of its own band, the present report as two dots.
  function plot(figure, { points, most, now, truthAt, truthName, left, right, label, paid }) {
    const ys = points.flatMap((p) => (paid ? [p.free, p.paid] : [p.free]));
    const [low, high] = [Math.min(0, ...ys), most || 1];
    const ticks = [...(low < -high / 5 ? [low] : []), 0, high / 2, high];
    const [W, H, R, T, B] = [340, 206, 12, 30, 30];
    const L = 14 + 7 * Math.max(...ticks.map((v) => show(v, 2).length)); // seven to a digit
    const pad = (high - low) * 0.08;
    const x = (t) => L + t * (W - L - R);
    const y = (v) => T + (high + pad - v) / (high - low + 2 * pad) * (H - T - B);
    const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
    for (const v of ticks) {
      svg.append(draw("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }));
      svg.append(draw("text", { class: "tick", x: L - 6, y: y(v) + 4, "text-anchor": "end" }, show(v, 2)));
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
  const NAMES = { free: "Lying alone, nobody pays", paid: "Lying alone, with payments", together: "You and a friend together, with payments",
    names: "You under several names, with payments", provider: "The provider, with an invented group: what it collects more" };
  const COUNTS = ["", "one", "two", "three"];
  function scores(rules) {
    let kept = {};
    let role = 0;
    const mine = JSON.stringify([rules.game, rules.truth]).split("").reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) | 0, 7);
    try { kept = JSON.parse(localStorage.getItem(`${KEY}-${mine}`)) || {}; } catch { /* a page of a private window has none */ }
    const table = make("tbody");
    const render = () => table.replaceChildren(...Object.entries(NAMES).map(([key, name]) => make("tr", {},
      make("th", { scope: "row" }, name), make("td", { className: "n" }, score(key)))));
    const score = (key) => {
      const gain = kept[role]?.[key];
      return gain === undefined ? "not tried" : way(gain) === "more" ? signed(gain) : "nothing gained";
    };
    const note = (key, gain) => {
      if (kept[role]?.[key] >= gain - 1e-12) return;
      kept[role] = { ...kept[role], [key]: gain };
      try { localStorage.setItem(`${KEY}-${mine}`, JSON.stringify(kept)); } catch { /* nor keeps any */ }
      render();
    };
    const forget = () => { kept = {}; try { localStorage.removeItem(`${KEY}-${mine}`); } catch { /* likewise */ } render(); };
    return { table, note, forget, of: (i) => { role = i; render(); } };
  }

  function mount(root) {
    const data = JSON.parse(root.dataset.game);
    const rules = rulesOf(data);
    const { truth, game } = rules;
    const state = { me: 0, prompt: 0, paid: data.paid, reports: copy(truth), partner: truth.length > 1 ? 1 : null };
    const board = scores(rules);
    const parts = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    const mine = () => state.reports[state.me];
    const labels = () => data.outcomes[state.prompt];
    const { weighed } = data;
    const namesOf = (size) => Math.min(COUNTS.length - 1, size); // a group of two has no third name
    const asked = (words) => (data.outcomes.length > 1 ? `${words} \u201c${data.prompts[state.prompt]}\u201d` : "");
    // What the provider hears is the truth, wherever the sliders are: it hears what they say in the declared scale.
    const wishes = truth.map((group) => rules.fit(group.reward));
    const isLie = (r, i, b, x) => Math.abs(r - wishes[i][b][x]) > 1e-12 * rules.top;
    const isTrue = (i) => state.reports[i].size === truth[i].size && rules.fit(state.reports[i].reward).every((row, b) => row.every((r, x) => !isLie(r, i, b, x)));
    const liars = () => truth.flatMap((group, i) => (i === state.me || isTrue(i) ? [] : [group.name]));

    // What was told of one set of reports is taken back when the reports change.
    const takeBack = () => ["searched", "together", "names", "provider"].forEach((key) => parts[key]?.replaceChildren());
    function rank() {
      board.of(state.me);
      if (!data.story) return;
      const { name, size } = truth[state.me];
      parts.player.textContent = name;
      const count = size > 1 ? COUNTS[namesOf(size)] : "several";
      parts.count.textContent = `${count} groups that share your members`;
      parts.split.textContent = size > 1 ? `Appear as ${count} groups` : "One member cannot be divided";
      parts.split.disabled = size < 2;
    }
    // What may be tried without payments from the present sliders: each way, where it beats both the truth and them.
    function advise(honest, now) {
      if (!data.story) return;
      const gainOfReport = (one) => utilities(rules, sent().map((was, i) => (i === state.me ? { ...one, reward: rules.fit(one.reward) } : was)), state.me).free - honest.free;
      const row = truth[state.me].reward[state.prompt];
      const isBest = row.map((r) => r === Math.max(...row));
      const said = (level) => ({ ...mine(), reward: mine().reward.map((r, b) => (b === state.prompt ? r.map((_, x) => level(r[x], isBest[x])) : r)) });
      const gain = now.free - honest.free;
      const ways = [[`claim ${rules.limit} members`, { ...mine(), size: rules.limit }], ["say that your favourite answer is worth the most", said((r, best) => (best ? rules.top : r))],
        ["say that all answers but your favourite are worth nothing", said((r, best) => (best ? r : 0))]].map(([name, one]) => [name, gainOfReport(one)])
        .filter(([, found]) => way(found) === "more" && way(found - gain) === "more").map(([name, found]) => `${name} (it gains you ${show(found)})`).join(", ") || "move the sliders";
      parts.ways.textContent = upper(ways);
      parts.fate.textContent = isTrue(state.me) ? "Watch what you get: not every lie pays." : `What you say now ${fateOf(gain)}: ${way(gain) === "more" ? "without a bill this lie pays" : "not every lie pays"}.`;
    }
    function report(reports) {
      state.reports = reports;
      takeBack();
      controls();
      update();
    }
    const row = (name, ...amounts) => make("tr", {}, make("th", { scope: "row" }, name), ...amounts.map((amount) => make("td", { className: "n" }, amount)));
    const sheet = (head, rows) => make("table", {}, make("thead", {}, make("tr", {}, ...head.map((name, k) => make("th", { scope: "col", className: k ? "n" : "" }, name)))), make("tbody", {}, ...rows));
    const moved = (name, before, after) => {
      const found = row(name, show(before), show(after), signed(after - before));
      found.lastChild.className = `n ${way(after - before)}`;
      return found;
    };

    function chooser(label, names, at, pick) {
      const select = make("select", { "aria-label": label });
      names.forEach((name, k) => select.append(make("option", { value: String(k), selected: k === at }, name)));
      select.addEventListener("change", () => { // the choosers are drawn anew: the new one keeps the focus
        pick(Number(select.value));
        [...root.querySelectorAll("select")].find((one) => one.getAttribute("aria-label") === label).focus();
      });
      return make("label", { className: "choose" }, `${label} `, select);
    }
    function slider(name, value, most, step, describe, change) {
      const input = make("input", { type: "range", min: "0", max: String(most), step: String(step), "aria-label": name });
      input.value = String(value);
      input.setAttribute("aria-valuetext", describe(value));
      input.addEventListener("input", () => { takeBack(); change(Number(input.value)); input.setAttribute("aria-valuetext", describe(Number(input.value))); });
      return input;
    }

    const rows = [];
    function controls() {
      const names = truth.map((group) => group.name);
      const top = [chooser("You are", names, state.me, (k) => { state.me = k; state.partner = k === 0 ? 1 : 0; rank(); report(copy(truth)); parts.searched.textContent = `You are ${names[k]} now, and everybody tells the truth again.`; })];
      if (data.outcomes.length > 1) top.push(chooser("Prompt", data.prompts, state.prompt, (k) => { state.prompt = k; report(state.reports); }));
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
      parts.partner.replaceChildren(chooser("Your friend", others.map(([name]) => name), others.findIndex(([, k]) => k === state.partner), (at) => {
        state.partner = others[at][1];
        report(copy(truth));
      }));
    }

    const sent = () => state.reports.map((one) => ({ ...one, reward: rules.fit(one.reward) }));
    // The reports with the truth in my place: what a lie of mine is compared with.
    const sincere = (reports) => reports.map((one, i) => (i === state.me ? truth[i] : one));
    function update() {
      const reports = sent();
      const me = state.me;
      const honest = utilities(rules, sincere(reports), me);
      const now = utilities(rules, reports, me);
      rows.forEach(({ input, said, x }) => {
        const value = x === null ? mine().size : mine().reward[state.prompt][x];
        if (Number(input.value) !== value) input.value = String(value);
        const sent = x === null ? value : reports[me].reward[state.prompt][x];
        said.textContent = x === null ? `${sent}` : show(sent);
        said.classList.toggle("lie", x === null ? sent !== truth[me].size : isLie(sent, me, state.prompt, x));
      });
      policy(honest.result.policy[state.prompt], now.result.policy[state.prompt]);
      numbers(honest, now);
      const lie = reports[me];
      const between = (t) => ({ size: truth[me].size + t * (lie.size - truth[me].size), reward: lie.reward.map((row, b) => row.map((r, x) => truth[me].reward[b][x] + t * (r - truth[me].reward[b][x]))) });
      const most = truth[me].size * Math.max(...truth[me].reward.flat());
      plot(parts.curve, { points: curve(rules, reports, me, between), most, now: 1, truthAt: 0, truthName: "the truth", left: "left: exactly true", right: "right: your sliders", paid: state.paid,
        label: "What you get on the way from your true wishes to what you say" });
      const sized = (t) => ({ ...lie, size: 1 + t * (rules.limit - 1) });
      const at = (size) => (rules.limit > 1 ? (size - 1) / (rules.limit - 1) : 0);
      plot(parts.sizes, { points: curve(rules, reports, me, sized), most, now: at(lie.size), truthAt: at(truth[me].size), truthName: `you are ${truth[me].size}`, left: "1 member", right: `${rules.limit} members`,
        paid: state.paid, label: "What you get against the number of members that you claim" });
      invoice(reports, now);
      advise(honest, now);
      if (!isTrue(me)) board.note(rule(), gainOf(honest, now));
    }
    const rule = () => (state.paid ? "paid" : "free");
    const fateOf = (gain) => ({ more: `gains you ${show(gain)}`, less: `costs you ${show(-gain)}`, "": "changes less than 0.001 for you" })[way(gain)];
    const gainOf = (honest, now) => now[rule()] - honest[rule()];

    function policy(before, after) {
      parts.policy.replaceChildren(...labels().map((label, x) => {
        const bar = make("span", { className: "bar-track" }, make("i", { className: "after" }), make("i", { className: "honest" }));
        bar.style.setProperty("--after", String(after[x]));
        bar.style.setProperty("--honest", String(before[x]));
        return make("li", {}, make("bdi", {}, label), bar, make("span", { className: "said" }, percent(after[x]), make("small", {}, `was ${percent(game.reference[state.prompt][x])}`)));
      }));
    }

    function numbers(honest, now) {
      const body = [moved("without payments", honest.free, now.free)];
      const names = liars();
      const all = `${names.length ? "you, and the others by what they say" : "everybody"}, together${weighed}, less what moving the model costs${weighed ? ", over your weight" : ""}`;
      if (state.paid) body.push(moved("with payments", honest.paid, now.paid), moved(all, honest.all, now.all));
      parts.numbers.replaceChildren(...body);
      const gain = isTrue(state.me) ? 0 : gainOf(honest, now);
      const colour = way(gain);
      const lie = `this lie ${fateOf(gain)}${state.paid ? ", bill paid" : ""}`;
      parts.verdict.textContent = isTrue(state.me) ? "You are telling the truth." : `${names.length ? `Alone, against the present report${names.length > 1 ? "s" : ""} of ${listed(names)}` : "As the others report now"}, ${lie}.`;
      parts.verdict.className = `verdict ${isTrue(state.me) ? "" : "lying"} ${colour}`;
      document.documentElement.style.setProperty("--bar", `${parts.verdict.offsetHeight}px`); // of a phone: what it covers is scrolled above it
      parts.others.textContent = names.length ? `Lying now: ${listed(names)}.` : "Everybody else tells the truth.";
      parts.others.classList.toggle("lie", names.length > 0);
    }

    function invoice(reports, now) {
      if (!parts.bill) return;
      const due = bill(rules, reports, state.me, now.result);
      const worth = now.result.worth[state.me];
      const home = game.boosts ? "its old habits and the provider's wishes" : "its old habits";
      const line = (name, off, amount) => row(amount < 0 ? `Off the bill: ${off}` : name, show(Math.abs(amount)));
      parts.bill.replaceChildren(line("What your report takes from the others", "what your report gives the others", due.others),
        line(`What your report adds to the cost of moving the model away from ${home}`, `your report keeps the model nearer to ${home}`, due.provider),
        row("Your bill", show(due.total)), row("What the model is worth to you now", show(worth)), row("Left for you", show(worth - due.total)));
    }

    // The best lie as the others report now: a search, started where lies are known to be good. It is a lower bound.
    function bestLie() {
      const me = state.me;
      const want = state.paid ? (result) => result.worth[me] - result.payments[me] : (result) => result.worth[me];
      const base = sincere(sent());
      const found = rules.climb(base, [me], want, 1, [{ [me]: copy(sent()[me]) }]);
      const gain = found.gain - want(rules.outcome(base));
      report(state.reports.map((one, i) => (i !== me ? one : gain < 1e-9 ? copy(truth[me]) : { ...truth[me], ...copy(found.changes[me]) })));
      board.note(rule(), gain);
      parts.searched.textContent = gain < 1e-9 ? `${found.tried} lies were tried. None gains anything as the others report now${state.paid ? ": the truth is your best report" : ""}.` : `${found.tried} lies were tried. This one gains ${show(gain)} as the others report now.`;
      return { gain, tried: found.tried };
    }
    // Everybody claims the most members, and full worth for whatever is worth half of its favourite or more.
    function everybody() {
      report(truth.map((group) => ({ ...group, size: rules.limit, reward: rules.fit(group.reward.map((row) => row.map((r) => (r >= Math.max(...row) / 2 ? rules.top : 0)))) })));
      const [before, after] = [truth, sent()].map(rules.outcome);
      const alone = truth.map((group, i) => rules.outcome(sent().map((one, j) => (j === i ? group : one))).worth[i]);
      const worse = truth.flatMap((group, i) => (way(alone[i] - after.worth[i]) === "less" ? [group.name] : []));
      const shouts = worse.length === truth.length ? "Everybody would get less by going back to the truth alone: when shouting is free, everybody shouts."
        : worse.length ? `Who would get less by going back to the truth alone: ${listed(worse)}.` : "Nobody would get less by going back to the truth alone.";
      const mine = (result) => show(result.worth[state.me]);
      parts.searched.textContent = `Before any bill, all groups together${weighed}, less what moving the model costs, get ${show(rules.net(after))}; when everybody was honest it was ${show(rules.net(before))}. You get ${mine(after)}; when everybody was honest it was ${mine(before)}; if you alone went back to the truth now, ${show(alone[state.me])}. ${shouts}`;
    }

    // The three that remain start where everybody is honest and pays.
    function together() {
      pays(true);
      const pair = [state.me, state.partner];
      const [me, friend] = pair.map((i) => truth[i].name);
      const kept = (result) => result.worth.map((worth, i) => worth - result.payments[i]);
      const want = (result) => total(pair.map((i) => kept(result)[i]));
      const found = rules.climb(truth, [...pair].sort((a, b) => a - b), want, 2); // whoever of the two presses
      const gain = found.gain - want(rules.honest);
      board.note("together", gain);
      if (way(gain) !== "more") {
        report(copy(truth));
        parts.together.textContent = `${found.tried} lies of these two were tried, and none gains.`;
        return;
      }
      report(truth.map((group, i) => ({ ...group, ...copy(found.changes[i] || {}) })));
      const [before, after] = [rules.honest, rules.outcome(sent())];
      const lie = found.changes[state.partner];
      const ofPair = (i) => [moved(`Bill of ${truth[i].name}`, before.payments[i], after.payments[i]), moved(`Left for ${truth[i].name}, bill paid`, kept(before)[i], kept(after)[i])];
      const others = (result) => total(kept(result).filter((_, i) => !pair.includes(i)));
      const [mine, theirs] = pair.map((i) => kept(after)[i] - kept(before)[i]);
      const ownCost = (i) => utilities(rules, sent().map((one, j) => (j === i ? truth[j] : one)), i).paid - kept(after)[i];
      const back = pair.filter((i) => !isTrue(i)).map((i) => `${signed(ownCost(i))} for ${i === state.me ? "you" : truth[i].name}`);
      parts.together.replaceChildren(make("div", { className: "plots" },
        sheet([`Report of ${friend}${asked(" on")}`, "in truth", "now"], [...labels().map((label, x) => row(label, show(truth[state.partner].reward[state.prompt][x]), show(lie.reward[state.prompt][x]))), row("Members", `${truth[state.partner].size}`, `${lie.size}`)]),
        sheet(["Points, rounded", "all honest", "you two lie", "change"], [...pair.flatMap(ofPair), moved("Left for you two", want(before), want(after)),
          ...(truth.length > 2 ? [moved("Left for the others", others(before), others(after))] : []), moved("All bills together", total(before.payments), total(after.payments))])),
        make("p", {}, `What is left changes by ${signed(mine)} for ${me} and by ${signed(theirs)} for ${friend}. Together you gain ${show(gain)}, the most of ${found.tried} lies tried.${[mine, theirs].some((x) => way(x) === "less") ? " The one who gains can repay the other." : ""} But going back to the truth alone, while the other report stays, loses nothing: ${back.join(", ")}.`));
    }
    function severalNames() {
      pays(true);
      report(copy(truth));
      const me = state.me;
      const size = truth[me].size;
      const count = namesOf(size);
      const sizes = Array.from({ length: count }, (_, k) => Math.floor(size / count) + (k < size % count ? 1 : 0));
      const split = [...truth.filter((_, j) => j !== me), ...sizes.map((w) => ({ ...truth[me], size: w }))];
      const weights = [...game.weights.filter((_, j) => j !== me), ...sizes.map(() => game.weights[me])];
      const bills = Settlement.settle({ ...game, weights }, split).payments.slice(truth.length - 1);
      const gain = rules.honest.payments[me] - total(bills);
      board.note("names", gain);
      parts.names.replaceChildren(
        sheet(["Bills, rounded", "one name", `${COUNTS[count]} names`], [...bills.map((due, k) => row(`Name ${k + 1}, ${sizes[k]} member${sizes[k] > 1 ? "s" : ""}`, "", show(due))), row("You pay in all", show(rules.honest.payments[me]), show(total(bills)))]),
        make("p", {}, `The model stays the same, and ${{ more: `you keep ${show(gain)} more`, less: `you pay ${show(-gain)} more`, "": "so does what you pay" }[way(gain)]}. The sliders and bars above still show you under one name.`));
    }
    function invent() {
      pays(true);
      report(copy(truth));
      const wider = { ...game, weights: [...game.weights, 1] };
      const revenue = (result) => total(result.payments.slice(0, truth.length));
      const wants = (likes) => ({ size: rules.limit, reward: rules.fit(game.reference.map((row) => row.map((_, x) => (likes(x) ? rules.top : 0)))) });
      const everybodyAnd = [...truth, wants(() => true)];
      const width = Math.max(...game.reference.map((row) => row.length));
      const alone = Array.from({ length: width }, (_, k) => ({ [truth.length]: wants((x) => x === k) })); // each answer alone
      const found = rulesOf({ game: wider, truth: everybodyAnd }).climb(everybodyAnd, [truth.length], revenue, 3, alone);
      const honest = total(rules.honest.payments);
      const gain = found.gain - honest;
      board.note("provider", gain);
      if (way(gain) !== "more") { parts.provider.textContent = `${found.tried} invented groups were tried, and none brings more.`; return null; }
      const extra = found.changes[truth.length];
      const wish = extra.reward[state.prompt];
      const favourites = labels().filter((_, x) => wish[x] === Math.max(...wish)).map((name) => `\u201c${name}\u201d`);
      const wanted = favourites.length < wish.length ? `wants ${listed(favourites)} most` : "likes all answers alike";
      const reports = [...truth, extra];
      const now = Settlement.settle(wider, reports);
      const after = rules.honest.payments.map((_, i) => now.payments[i]);
      const billed = (direction) => { const found = truth.filter((_, i) => way(after[i] - rules.honest.payments[i]) === direction).map((group) => group.name); return found.length ? [`${direction} is billed to ${listed(found)}`] : []; };
      // A bill's change in three parts: of the invented group, of the real ones, of moving the model.
      const parted = truth.map((_, i) => [bill(rules, truth, i, rules.honest), bill({ game: wider }, reports, i, now)])
        .map(([before, due]) => [due.lost[truth.length], due.others - due.lost[truth.length] - before.others, due.provider - before.provider]);
      parts.provider.replaceChildren(
        sheet(["Bills, rounded", "honest", "now", "change"], [...truth.map((group, i) => moved(group.name, rules.honest.payments[i], after[i])), moved("You collect", honest, found.gain)]),
        make("p", {}, `You invent a group of ${extra.size} that ${wanted}${asked(" as the answer to")}, the best for you of ${found.tried} that were tried. ${upper([[...billed("more"), ...billed("less")].join(", "), `all bills together rise by ${show(gain)}`].filter(Boolean).join(": "))}, which you keep.`),
        sheet(["Parts of each change", "taken from the invented group", "taken from the real groups", "cost of moving the model"], truth.map((group, i) => row(group.name, ...parted[i].map(signed)))),
        make("p", {}, "The first column is what the invented group says that it loses by the report of each group, or gains where it is negative. It also moves the model, which changes what the reports do: that is the rest. The sliders and bars above show the game without it."));
      return extra;
    }

    const press = (name, action) => { if (parts[name]) parts[name].addEventListener("click", action); };
    press("truthful", () => report(copy(truth)));
    press("best", bestLie);
    press("everybody", everybody);
    press("collude", together);
    press("split", severalNames);
    press("invent", invent);
    press("forget", board.forget);
    const pays = (paid) => {
      state.paid = paid;
      root.classList.toggle("paying", paid);
      if (parts.charge) parts.charge.checked = paid;
      takeBack();
      update();
    };
    if (parts.charge) parts.charge.addEventListener("change", () => pays(parts.charge.checked));
    if (parts.board) parts.board.replaceChildren(board.table);
    rank();
    controls();
    pays(state.paid);
    root.hidden = false;
    const gains = () => {
      const [honest, now] = [sincere(sent()), sent()].map((reports) => utilities(rules, reports, state.me));
      return { paid: now.paid - honest.paid, all: now.all - honest.all };
    };
    root.api = { state, rules, bestLie, invent, gains, bill: () => bill(rules, sent(), state.me, rules.outcome(sent())), pays };

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
      state.reports = truth.map((group, i) => (i === state.me ? mine() : copy(group))); // every step starts with honest others
      pays(steps[step].dataset.pays === "yes");
    };
    press("back", () => { go(step - 1); parts.story.focus(); });
    press("next", () => { go(step + 1); parts.story.focus(); });
    press("skip", () => { go(steps.length - 1); parts.story.focus(); });
    root.classList.add("stepped");
    go(0);
  }

  document.querySelectorAll(".play").forEach(mount);
})();
