"""The search of candidates: the study, its samplers, screening, and how several processes share one.

Called, it is `nasimb.api.search`, a whole search of the best network for imbalanced images:

>>> import nasimb
>>> quick = ["training_steps=3", "heads.penalties=[0.01]"]
>>> found = nasimb.search(data="digits:0-2", budget="2trials", run="runs/digits", assign=quick)
>>> found.model.classes
('0', '1', '2')

Start reading at `nasimb.search.study`.
"""
