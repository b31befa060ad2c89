"""The logit of a class, whatever the model calls it."""

import copy

import pytest
from support import tiny_classifier

from helpers import models


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


def test_positive_label_goes_by_its_name(classifier):
    model = copy.copy(classifier[0])
    model.config = copy.deepcopy(model.config)
    assert models.positive_label(model) == 1
    model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}
    assert models.positive_label(model) == 0
