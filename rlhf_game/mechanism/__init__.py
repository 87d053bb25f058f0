"""The mechanism: reports, spaces of policies, training rules, payment rules. Depends on numpy and scipy only.

A module imports only from those before it: errors, arrays, reports, regularizers, spaces, training, payments,
mechanism. The public names are those of ``rlhf_game`` itself.
"""
