"""From a finished model to its use: predictions of files, figures on labelled images, other formats, a model card."""
