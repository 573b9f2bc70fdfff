"""Diagnostics of attention and of the loss landscape (spec fd 7)."""

import pytest
import torch
import torch.nn.functional as F
from test_student_vit_golden import student
from torch import nn

from vistill.analysis.attention import AttentionStatistics, Places
from vistill.analysis.landscape import curve, plane, scaled
from vistill.models.attention_maps import hear_attention


@pytest.mark.parametrize("name", ["diag_attention_cls", "diag_attention_nocls"])
def test_attention(golden, name):
    case = golden(name, "fd")
    config, maps = case.config, case.inputs["attn"]
    prefix = config["extra_tokens"]
    places = Places(1, tuple(config["grid"]), tuple(config["patch"]), prefix)

    def close(found, expected):
        found = torch.as_tensor(found).double()
        expected = case.output[expected].reshape(found.shape)
        torch.testing.assert_close(found, expected, atol=case.atol, rtol=case.rtol)

    def seen(*, rows=False, **options):
        found = AttentionStatistics(options.pop("places", places), rows=rows, **options)
        for one in maps:  # in any number of parts
            found.add(one[None])
        return found.figures()

    figures = seen()
    for kind, found in (("renorm", figures), ("raw", seen(renormalize=False))):
        close(found.distance, f"distance_{kind}_per_head")
        close(found.distance.mean(), f"distance_{kind}_layer")
    close(figures.entropy, "entropy") if maps.shape[0] == 1 else torch.testing.assert_close(
        figures.entropy, case.output["entropy"].mean(dim=0)
    )
    close(figures.average, "average_map_patch")
    close(figures.diagonal, "diagonal_score")
    close(figures.column, "column_score")
    close(figures.identity, "identity_mass_score")
    whole = Places(1, (1, maps.shape[-1]), (1.0, 1.0), 0)
    for tokens, where in (("patch", places), ("all", whole)):
        for rows in (False, True):
            found = seen(rows=rows, places=where, renormalize=tokens == "patch")
            kind = f"similarity_{tokens}_{'row' if rows else 'map'}"
            torch.testing.assert_close(found.similarity, case.output[kind].mean(dim=0))
            close(found.alike, f"{kind}_layer")
    close(seen(places=whole, renormalize=False).average, "average_map_all_tokens")
    for head in range(config["heads"]):
        one = AttentionStatistics(places)
        one.add(maps[:, head : head + 1])
        found = one.figures()
        for score in ("diagonal", "column"):
            expected = case.output[f"{score}_score_per_head"][head]
            torch.testing.assert_close(getattr(found, score), float(expected))


class Small(nn.Module):
    def __init__(self, state):
        super().__init__()
        shapes = {name: value.shape for name, value in state.items()}
        self.embed = nn.Conv2d(3, shapes["embed.weight"][0], 4, stride=4)
        self.norm = nn.LayerNorm(shapes["norm.weight"][0], eps=1e-6)
        self.fc1 = nn.Linear(*reversed(shapes["fc1.weight"]))
        self.fc2 = nn.Linear(*reversed(shapes["fc2.weight"]))
        self.double().load_state_dict(state)

    def forward(self, images):
        x = F.gelu(self.embed(images)).flatten(2).mean(dim=2)
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


def test_landscape(golden):
    case = golden("diag_landscape", "fd")
    model, inputs = Small(case.state), case.inputs
    before = {name: value.clone() for name, value in model.state_dict().items()}
    close_to = {"atol": case.atol, "rtol": case.rtol}

    def raw(number):
        names = dict(model.named_parameters())
        return {name: inputs[f"raw_direction{number}/{name}"] for name in names}

    directions = [scaled(model, raw(number)) for number in range(2)]
    for number, found in enumerate(directions):
        for name, value in found.items():
            expected = case.output[f"direction{number}/{name}"]
            torch.testing.assert_close(value, expected, **close_to)
    for name, value in scaled(model, raw(0), norm="layer").items():
        torch.testing.assert_close(value, case.output[f"layer_direction0/{name}"], **close_to)

    @torch.no_grad()
    def measure(model):
        scores = model(inputs["image"])
        right = (scores.argmax(dim=1) == inputs["label"]).double().mean()
        return float(F.cross_entropy(scores, inputs["label"])), 100 * float(right)

    lengths = inputs["alphas"].tolist()
    curves = torch.stack([curve(model, measure, one, lengths) for one in directions])
    torch.testing.assert_close(curves[:, 0], case.output["loss"], **close_to)
    torch.testing.assert_close(curves[:, 1], case.output["accuracy"], **close_to)
    torch.testing.assert_close(curves[:, 0].mean(dim=0), case.output["loss_mean"], **close_to)
    torch.testing.assert_close(curves[:, 1].mean(dim=0), case.output["accuracy_mean"], **close_to)
    coordinates = inputs["plane_coordinates"].tolist()
    losses = plane(model, measure, (directions[0], directions[1]), coordinates)[0]
    torch.testing.assert_close(losses, case.output["loss_plane"], **close_to)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_of_a_whole_model(golden):
    """Maps are rebuilt from what the fused kernel is given, with its relative bias."""
    case, model_case = (
        golden("diag_model_student_vit", "fd"),
        golden("student_vit_shared_rpb", "fd"),
    )
    model = student(model_case.config["model"], model_case.state).eval()
    prefix, grid = case.config["extra_tokens"], tuple(case.config["grid"])
    places = Places(1, grid, tuple(case.config["patch"]), prefix)
    layers = [AttentionStatistics(places) for _ in range(model.depth)]
    hear_attention(model, model_case.inputs["image"], lambda i, maps: layers[i - 1].add(maps))
    for number, figures in enumerate(one.figures() for one in layers):
        found = {
            f"average_map.{number}": figures.average,
            "distance": figures.distance,
            "pattern_scores": torch.tensor([figures.diagonal, figures.column]),
            "similarity_layer": torch.tensor(figures.alike),
        }
        for name, value in found.items():
            expected = case.output[name]
            expected = expected if "." in name else expected[number]
            torch.testing.assert_close(value.double(), expected, atol=case.atol, rtol=case.rtol)
