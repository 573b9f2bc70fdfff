"""Fine-tuning a CNN: the ordinary network with a fresh linear head on its pooled feature."""

import torch
from torch import nn

from vistill.config.finetune import FineTuneConfig
from vistill.evaluation.classifier import build_classifier
from vistill.evaluation.finetune import finetune_groups
from vistill.models.build import create_backbone


def test_a_cnn_is_classified_by_its_activated_feature() -> None:
    model = create_backbone("torchvision/resnet18", image_size=32)
    options = FineTuneConfig(layer_decay=0.5)
    method = build_classifier(model, 4, image_size=64, pool="avg", options=options, seed=0)
    classifier = method.eval()
    assert isinstance(classifier.fc_norm, nn.Identity)
    images = torch.randn(2, 3, 64, 64)
    network = classifier.student.module
    network.fc = classifier.head
    torch.testing.assert_close(classifier.logits(images), network(images))

    network.fc = nn.Linear(512, 1000)  # what the pre-trained file had there is not trained
    scales = {
        name: group["lr_scale"]
        for group in finetune_groups(classifier, options)
        for name, parameter in classifier.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert scales["head.weight"] == 1.0
    assert scales["student.module.conv1.weight"] == 0.5
