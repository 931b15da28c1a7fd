"""Stages that need a whole tensor at once: what is not an `ElementPass`.

`sparsify` ranks a source's elements, `spectral` edits singular values, `combine` weighs elements or
rows against each other, `angles` finds the coefficients of a weighted sum from inner products.
Functions on float32 tensors of any shape, on any device, that change none of their inputs.
"""
