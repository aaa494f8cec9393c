import pytest
import torch
from torch import Tensor

from model.fau import FAU
from model.hourglass import HourglassBranch, HourglassTrunk
from model.okdhp import OKDHP, ensemble
from model.student import Decoder, DecoderConfig, DetectorBranch, Encoder, EncoderConfig, PoseBranch

FORMS = ("concat", "sum", "slim", "mean")
CONFIG = EncoderConfig((4, 8, 8, 8, 8), (0, 0, 0, 0, 0))


def small_network(form: str = "concat") -> OKDHP:
    decoders = {"light": DecoderConfig((8, 8, 4)), "heavy": DecoderConfig((16, 8, 8), depth=2)}
    return OKDHP(Encoder(CONFIG), {n: PoseBranch(d, CONFIG, 3) for n, d in decoders.items()}, 3, form)


def trained_fau(form: str) -> FAU:
    fau = FAU(8, 3, 5, form)
    if form != "mean":
        torch.nn.init.normal_(fau.heads.weight)
    return fau


@pytest.mark.parametrize("form", FORMS)
def test_weights_sum_to_one_over_branches_for_each_keypoint(form: str) -> None:
    weights = trained_fau(form)(torch.randn(4, 8, 16, 12))
    assert weights.shape == (4, 3, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(4, 5))
    assert (weights >= 0).all()


@pytest.mark.parametrize("form", ["concat", "sum", "slim"])
def test_learnt_weights_depend_on_the_picture(form: str) -> None:
    weights = trained_fau(form)(torch.randn(2, 8, 16, 12))
    assert not torch.allclose(weights[0], weights[1])


@pytest.mark.parametrize("form", ["concat", "sum", "slim"])
def test_before_anything_is_learnt_no_branch_is_preferred_and_each_weight_can_be_learnt(form: str) -> None:
    fau = FAU(8, 3, 5, form)
    stem = torch.randn(4, 8, 16, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fau(stem), torch.full((4, 3, 5), 1 / 3))
    asked = [(fau(stem)[0, branch, keypoint], branch, keypoint) for branch in range(3) for keypoint in range(5)]
    for weight, branch, keypoint in asked:  # each has a number of its own, in the order of branches
        (slope,) = torch.autograd.grad(weight, fau.heads.bias, retain_graph=True)
        assert slope.view(3, 5).argmax().item() == branch * 5 + keypoint
        assert slope.view(3, 5).any(0).nonzero().flatten().tolist() == [keypoint]


@pytest.mark.parametrize(("widths", "read"), [((8, 8, 4), 4), ((8, 8), 3)])
def test_a_decoder_reads_every_level_on_its_way_up(widths: tuple[int, ...], read: int) -> None:
    features = Encoder(CONFIG)(torch.rand(2, 3, 64, 64) * 255).features
    levels = tuple(feature.detach().requires_grad_() for feature in features)
    decoder = Decoder(DecoderConfig(widths), CONFIG)
    decoder(levels).square().sum().backward()
    assert [level.grad is not None and bool(level.grad.any()) for level in levels] == [True] * read + [False] * (
        len(levels) - read
    )


@pytest.mark.parametrize("tower", [0, 1])
def test_an_untrained_detector_believes_that_a_cell_in_a_hundred_is_somebody(tower: int) -> None:
    features = Encoder(CONFIG)(torch.rand(2, 3, 64, 64) * 255).features
    found = DetectorBranch(DecoderConfig((8, 8)), CONFIG, tower)(features).final
    assert found.min() > 0.008 and found.max() < 0.0125


def test_the_weights_of_branches_come_of_the_picture() -> None:
    network = small_network("slim")
    torch.nn.init.normal_(network.fau.heads.weight)
    weights = network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).weights
    assert not torch.allclose(weights[0], weights[1], atol=1e-3)


def test_mean_weighs_all_branches_alike_and_learns_nothing() -> None:
    fau = FAU(8, 4, 2, "mean")
    assert torch.equal(fau(torch.randn(1, 8, 4, 4)), torch.full((1, 4, 2), 0.25))
    assert list(fau.parameters()) == []


def test_unknown_form_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="got 'max'"):
        FAU(8, 3, 5, "max")  # type: ignore[arg-type]


def test_ensemble_is_the_convex_combination_of_the_final_heatmaps() -> None:
    trunk = HourglassTrunk(1, channels=16, num_keypoints=3)
    branches = {"a": HourglassBranch(2, 16, 3), "b": HourglassBranch(1, 16, 3)}
    model = OKDHP(trunk, branches, 3)
    torch.nn.init.normal_(model.fau.heads.weight)
    out = model(torch.rand(2, 3, 64, 64) * 255)
    for b in range(2):
        for k in range(3):
            by_hand = sum(out.weights[b, m, k] * out.branches[name].final[b, k] for m, name in enumerate(("a", "b")))
            torch.testing.assert_close(out.ensemble[b, k], by_hand)


def test_supervising_the_ensemble_teaches_the_fau_and_every_branch() -> None:
    model = small_network()
    model(torch.rand(2, 3, 64, 64) * 255).ensemble.square().sum().backward()
    assert model.fau.heads.weight.grad is not None
    assert model.fau.heads.weight.grad.abs().sum() > 0
    assert all(branch.head.weight.grad.abs().sum() > 0 for branch in model.branches.values())


def test_detached_ensemble_sends_no_gradient_to_the_fau() -> None:
    model = small_network()
    out = model(torch.rand(2, 3, 64, 64) * 255)
    sum((branch.final - out.ensemble.detach()).square().sum() for branch in out.branches.values()).backward()
    assert model.fau.heads.weight.grad is None


def test_deployed_branch_predicts_what_it_predicted_in_training() -> None:
    model = small_network().eval()
    images = torch.rand(2, 3, 64, 96) * 255
    for name in ("light", "heavy"):
        torch.testing.assert_close(model.deployed(name)(images).final, model(images).branches[name].final)


def test_unknown_branch_is_named_with_those_that_exist() -> None:
    with pytest.raises(KeyError, match="no branch 'x'; the branches are light, heavy"):
        small_network().deployed("x")


def test_one_branch_alone_is_its_own_ensemble() -> None:
    model = OKDHP(Encoder(CONFIG), {"only": PoseBranch(DecoderConfig((8, 8, 4)), CONFIG, 3)}, 3)
    out = model(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(out.ensemble, out.branches["only"].final)


def test_ensemble_follows_the_names_not_the_order_of_creation() -> None:
    def constant(value: float) -> Tensor:
        return torch.full((1, 1, 2, 2), value)

    from model.outputs import BranchOutput

    weights = torch.tensor([[[0.25], [0.75]]])
    result = ensemble({"x": BranchOutput(constant(1.0)), "y": BranchOutput(constant(2.0))}, weights)
    torch.testing.assert_close(result, constant(1.75))
