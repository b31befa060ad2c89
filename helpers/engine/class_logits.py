"""What a classifier with a tokenizer of its own says of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from helpers.engine.tokens import encode_whole, pad


def class_logits(
    classifier: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 128
) -> np.ndarray:
    """Logits of a sequence classifier, (n, labels); texts are cut to the classifier's length."""
    classifier.eval()
    device = next(classifier.parameters()).device
    limit = min(getattr(classifier.config, "max_position_embeddings", 512), 512)
    order = np.argsort([len(t) for t in texts], kind="stable")  # alike lengths share a batch
    out = np.zeros((len(texts), classifier.config.num_labels), dtype=np.float32)
    with torch.no_grad():
        for i in range(0, len(texts), batch_size):
            rows = order[i : i + batch_size]
            ids = encode_whole(tokenizer, [texts[int(j)] for j in rows], limit)
            batch = pad(ids, tokenizer.pad_token_id, tokenizer.padding_side)
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            out[rows] = classifier(**inputs).logits.float().cpu().numpy()
    return out


def positive_label(classifier: Any) -> int:
    """Index of the label that means "positive": by its name, otherwise the second."""
    names = {int(k): str(v).lower() for k, v in (classifier.config.id2label or {}).items()}
    return next((k for k, v in names.items() if v.startswith("pos")), 1)
