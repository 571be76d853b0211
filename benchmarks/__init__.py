"""What the template's parts cost, against floors and peers, all in one run.

``python -m benchmarks`` measures everything, prints the tables, and writes them into
docs/benchmarks.md with a plot. The machine may be busy: the variants of a benchmark take turns
(A B C A B C …), and a ratio is the median of the rounds' own ratios, so what slows one round slows
both sides of it.

- ``samples``: medians, spreads and ratios.
- ``report``: tables, targets, and their place in the documentation; ``plot``: the picture.
- ``lab``: what a benchmark is given: rounds, a scratch directory, baked services, servers.
- ``generation``, ``group``, ``group_scale``, ``group_killed``, ``lambda_init``, ``record_cpu``,
  ``queue_throughput``, ``mapping``: the benchmarks.
- ``drivers``: processes that a benchmark measures in, one a variant.
- ``handlers``: the Lambda handlers that ours is compared with.
"""
