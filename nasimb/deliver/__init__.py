"""From a finished model to its use: predictions of files, figures on labelled images, other formats, a model card.

Each is a command, and a function here: `nasimb predict` is `write_predictions`, the others have one name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasimb.lazily import lazily

if TYPE_CHECKING:
    from nasimb.deliver.evaluation import Evaluation, evaluate
    from nasimb.deliver.predict import write_predictions
    from nasimb.deliver.retraining import retrain
    from nasimb.deliver.shipping import Exported, export
    from nasimb.deliver.sources import found_model
else:
    _HOMES = {
        "Evaluation": "nasimb.deliver.evaluation",
        "Exported": "nasimb.deliver.shipping",
        "evaluate": "nasimb.deliver.evaluation",
        "export": "nasimb.deliver.shipping",
        "found_model": "nasimb.deliver.sources",
        "retrain": "nasimb.deliver.retraining",
        "write_predictions": "nasimb.deliver.predict",
    }
    __getattr__ = lazily(__name__, _HOMES)

__all__ = ["Evaluation", "Exported", "evaluate", "export", "found_model", "retrain", "write_predictions"]
