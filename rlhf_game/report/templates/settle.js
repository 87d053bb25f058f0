"use strict";
// The KL settlement of rlhf-game, for pages: game = {reference: [B][m], promptWeights: [B], strength, weights: [n], boosts: [B][m]},
// reports = [{reward: [B][m], size}]. Every number agrees with the Python package (tests/report/test_play.py).
const Settlement = (() => {
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const dot = (a, b) => a.reduce((total, x, k) => total + x * b[k], 0);

  // exp(-c) - 1 + c >= 0, with its Taylor series where the terms cancel.
  function phi(c) {
    if (Math.abs(c) >= 0.1) return Math.expm1(-c) + c;
    let series = 1 / 12;
    for (let k = 11; k > 2; k -= 1) series = (1 - c * series) / k;
    return c * c * (1 - c * series) / 2;
  }

  // log E_p[exp(-(a - E_p[a]))] >= 0: what a share a costs, in units of the strength. log p: of every outcome.
  function cumulant(logP, p, share) {
    const held = share[p.indexOf(Math.max(...p))];
    const near = share.map((a) => a - held);
    const mean = dot(p, near);
    const c = near.map((a) => a - mean);
    const small = sum(c.map((x, k) => (Math.abs(x) < 1 ? p[k] * phi(x) : Math.exp(logP[k] - x) + p[k] * (x - 1))));
    if (small < 1) return Math.log1p(small);
    const terms = c.map((x, k) => logP[k] - x);
    const top = Math.max(...terms);
    return top + Math.log(sum(terms.map((x) => Math.exp(x - top))));
  }

  // The optimum of one prompt: probabilities p, and their logarithms.
  function gibbs(q, score) {
    const logits = q.map((mass, k) => Math.log(mass) + score[k]);
    const top = Math.max(...logits);
    const logZ = top + Math.log(sum(logits.map((x) => Math.exp(x - top))));
    return { logP: logits.map((x) => x - logZ), p: logits.map((x) => Math.exp(x - logZ)) };
  }

  function settle(game, reports) {
    const { reference, promptWeights, strength, weights: mu } = game;
    const mean = (ofPrompt) => dot(promptWeights, reference.map((_, b) => ofPrompt(b)));
    const shares = reports.map((one, i) => one.reward.map((row) => row.map((r) => mu[i] * one.size * r / strength)));
    const score = reference.map((row, b) => row.map((_, k) =>
      sum(shares.map((share) => share[b][k])) + (game.boosts ? game.boosts[b][k] / strength : 0)));
    const optima = reference.map((q, b) => gibbs(q, score[b]));
    const values = reports.map((one) => mean((b) => dot(optima[b].p, one.reward[b])));
    const cost = (ofPrompt) => mean((b) => cumulant(optima[b].logP, optima[b].p, ofPrompt(b)));
    const payments = shares.map((share, i) => strength * cost((b) => share[b]) / mu[i]);
    const divergence = cost((b) => score[b]);
    return { policy: optima.map((one) => one.p), values, payments, divergence,
      utilities: reports.map((one, i) => one.size * values[i] - payments[i]),
      welfare: sum(reports.map((one, i) => one.size * values[i])) };
  }

  // What a policy [B][m] is worth to one member who values the outcomes at reward [B][m].
  function value(game, policy, reward) {
    return dot(game.promptWeights, policy.map((p, b) => dot(p, reward[b])));
  }

  return { settle, value, phi };
})();
