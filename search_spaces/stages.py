"""The stages of a merge rule: every choice, and the parameters that it alone brings.

A merge rule is a pipeline

    reference -> sparsify -> rescale -> spectral -> consensus -> combine -> scale

With reference r, sources theta_i, weights w_i: tau_i = theta_i - r; sparsify drops elements of
tau_i, rescale multiplies what is left, spectral edits its singular values, consensus picks the
elements that agree across sources, combine makes one tau of them, and the result is
r + lambda * ramp * tau. Any choice of one stage goes with any choice of the others.
"""

from collections.abc import Mapping

STAGES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "reference": {
        "none": (),  # tau_i = theta_i
        "base": (),
        "mean": (),  # of the sources, for pools without a common base
    },
    "sparsify": {
        "none": (),
        "magnitude": ("density", "scope"),  # the largest |tau|
        "random": ("density",),  # Bernoulli
        "della": ("density", "epsilon"),  # Bernoulli, likelier for a higher rank within the row
        "outliers": ("density", "gamma"),  # the largest but for the top gamma
        "n_of_m": ("density", "m"),  # the largest of each m in a row that no earlier source took
        "variance": ("select_topk",),  # where the sources differ most
        "above": ("epsilon",),  # |tau| > epsilon
        "clip": ("t",),  # nothing dropped: tau cut to [-t, t]
        "importance": (),  # |tau| times the divergence of the rows' softmax, outliers only
    },
    "rescale": {"none": (), "inverse": (), "l1": ()},
    "spectral": {
        "none": (),
        "star": ("eta",),  # singular values up to a share of their sum, nuclear norm kept
        "truncate": ("rank",),  # a share of the singular values
    },
    "consensus": {
        "none": (),
        "sum": (),  # sign of the weighted sum
        "count": (),  # sign that most have
        "support": ("k", "support"),  # elements that at least k sources need
    },
    "combine": {
        "sum": (),
        "mean": (),  # by the sum of the weights that agree
        "survivors": (),  # by the sum of the weights that sparsification left
        "largest": (),  # the one of greatest magnitude
        "energy": (),  # mean weighted by the mean square of what sparsification left
        "slerp": ("t",),
        "nuslerp": ("nuslerp_row_wise", "nuslerp_flatten"),
        "multislerp": ("normalize_weights", "eps"),
        "karcher": ("max_iter", "tol"),
        "model_stock": ("filter_wise",),
        "iso_c": (),  # equal singular values of the weighted sum
        "pcb": ("density",),  # weighted by competition-balanced scores
    },
}
"""Stage -> choice -> names of its parameters. `evomerge.merge.pipeline` implements each (tested)."""

INPUTS: Mapping[str, tuple[int, int | None]] = {
    "slerp": (2, 2),
    "nuslerp": (2, 2),
    "model_stock": (2, None),
}
"""Least and greatest number of tensors that a choice of combine takes, where not any will do."""
