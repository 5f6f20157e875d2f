"""Diagnostics of what happens inside a model while it trains, on any torch module. No Lightning here.

Every measurement is a flat dict of numbers under the names they have in metrics.jsonl.

``<quantity>/<weight>``, the weight named like its parameter (litgpt's fused ``attn.qkv`` as ``attn.q``, ``attn.k`` and
``attn.v``). W is the weight, R the reference (at initialization, or one step before), x and x_R their inputs on the
fixed probe. Norms of vectors are RMS norms |v|_2 / sqrt(dim), per position; the number is their mean over all
positions.

- ``effective`` |(W - R) x|, ``propagating`` |R (x - x_R)|, ``update`` |W x - R x_R|, the norm of their sum
- ``input`` |x|, ``input_change`` |x - x_R|, ``output`` |W x|, ``cosine`` of W x and R x_R; ``cosine_other``, that of
  W x and R x_R at two different positions, over all pairs of positions (paper, Fig. E.6)
- ``gradient``: RMS of the entries of the last step's gradient, before clipping (`pipeline.training.monitor`)
- ``operator_norm`` |W|, ``operator_norm_reference`` |R|, ``operator_norm_update`` |W - R| between RMS norms,
  sqrt(fan_in / fan_out) sigma_max; ``update_rank`` |W - R|_F / |W - R|_2; ``update_rms`` c |W - R|_RMS, the RMS of the
  entries, with c = fan_in products in every sum of a matrix, and c = 1 for embeddings, gains and biases (Fig. 2)
- ``alignment_effective`` = effective / (operator_norm_update input), ``alignment_propagating`` = propagating /
  (operator_norm_reference input_change); ``alignment_rms`` = effective / (update_rms input)

An embedding acts on one-hot vectors of norm 1: its operator norm is the largest RMS of a row. A gain is a diagonal
matrix on the normalized input, a bias a vector on the constant 1. What is 0 / 0 is left out.

``<quantity>/<attention>``: ``query``, ``key``, ``value`` (RMS per head, after norm and rope), ``attention_entropy``
(nats), ``attention_logit`` (largest |q . k| scale). ``sparsity/<layer>``: share of zeros after the ReLU that follows a
layer. On the probe: ``probe_loss`` (cross-entropy, nats), ``probe_logit_rms``, ``max_probability``, ``entropy``; on the
validation split ``val_max_probability``, ``val_entropy``, ``val_calibration_error``. ``sharpness/1``, ``sharpness/2``,
..., ``ntk/1``.
"""
