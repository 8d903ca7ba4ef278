"""EfficientNet weights of timm and torchvision give their logits in ours; others are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from search_spaces.architecture import Architecture, Stage
from search_spaces.network import Network, initialize
from search_spaces.ops import PlainConv
from search_spaces.weights import WeightsError, load_weights, read_weights, save_weights
from search_spaces.zoo import ZOO

B0 = replace(ZOO["efficientnet-b0"](), norm_eps=1e-5)
SMALL = replace(B0, name="small", stages=B0.stages[:3], head_width=24, num_classes=5)


def _b2() -> Architecture:
    """EfficientNet-B2 by the released widths and repeats (facts 2.2)."""
    widths, repeats = (16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2)
    stages = tuple(
        replace(stage, width=width, repeats=number)
        for stage, width, number in zip(B0.stages, widths, repeats, strict=True)
    )
    return replace(B0, name="efficientnet-b2", resolution=260, stages=stages, head_width=1408)


def _randomized(module: nn.Module) -> nn.Module:
    """With weights that show a mix-up: fresh norms are all alike, and torchvision's own initial
    weights fade the image out before the logits."""
    initialize(module)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                assert child.running_mean is not None
                assert child.running_var is not None
                child.running_mean.normal_(0, 0.2, generator=generator)
                child.running_var.uniform_(0.5, 2, generator=generator)
                child.weight.uniform_(0.8, 1.6, generator=generator)
                child.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(child, nn.Conv2d) and child.bias is not None:
                child.bias.normal_(0, 0.5, generator=generator)
    return module.eval()


def _reference(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        return _randomized(timm.create_model(name, pretrained=False))
    return _randomized(getattr(torchvision.models, name)(weights=None))


@pytest.mark.parametrize(
    ("library", "name", "architecture"),
    [
        ("timm", "efficientnet_b0", B0),
        ("timm", "efficientnet_b2", _b2()),
        ("timm", "semnasnet_100", replace(ZOO["mnasnet-a1"](), norm_eps=1e-5)),
        ("torchvision", "efficientnet_b0", B0),
        ("torchvision", "efficientnet_b2", _b2()),
    ],
)
def test_logits_agree(library: str, name: str, architecture: Architecture) -> None:
    reference = _reference(library, name)
    network = Network(architecture).eval()
    images = torch.randn(2, 3, 97, 97, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, fresh = reference(images), network(images)
        assert load_weights(network, reference.state_dict()) == library
        logits = network(images)
    torch.testing.assert_close(logits, expected)
    # The comparison has teeth: images, and other weights, give other logits.
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    assert (expected - fresh).abs().max() > 1e-2


@pytest.mark.parametrize("name", ZOO)
def test_own_weights_go_through_a_file(name: str, tmp_path: Path) -> None:
    architecture = replace(ZOO[name](), resolution=32, num_classes=3)
    torch.manual_seed(0)
    # channels_last tensors are not contiguous, which safetensors asks for.
    network = _randomized(Network(architecture).to(memory_format=torch.channels_last))
    assert isinstance(network, Network)
    save_weights(network, tmp_path / "model.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    torch.manual_seed(1)
    other = Network(architecture)
    assert load_weights(other, read_weights(tmp_path / "model.safetensors")) == "own"
    loaded = other.state_dict()
    assert list(loaded) == list(network.state_dict())
    for tensor_name, tensor in network.state_dict().items():
        assert torch.equal(loaded[tensor_name], tensor), tensor_name


def test_torchvision_and_timm_name_the_same_tensors() -> None:
    torch.manual_seed(0)
    first, second = Network(B0), Network(B0)
    state = _reference("torchvision", "efficientnet_b0").state_dict()
    load_weights(first, state)
    timm_names = timm.create_model("efficientnet_b0", pretrained=False).state_dict()
    assert len(timm_names) == len(state)
    load_weights(second, dict(zip(timm_names, state.values(), strict=True)))
    for mine, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_another_number_of_classes_names_the_remedy() -> None:
    state = Network(replace(SMALL, num_classes=7)).state_dict()
    with pytest.raises(WeightsError, match=r"7 classes apart, small 5\. .*reset_classifier=True"):
        load_weights(Network(SMALL), state)


@pytest.mark.parametrize("num_classes", [5, 1000])
def test_reset_classifier_keeps_the_networks_own(num_classes: int) -> None:
    torch.manual_seed(0)
    network, source = Network(SMALL), Network(replace(SMALL, num_classes=num_classes))
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert load_weights(network, source.state_dict(), reset_classifier=True) == "own"
    for name, tensor in network.state_dict().items():
        kept = name.startswith("classifier.")
        assert torch.equal(tensor, (fresh if kept else source.state_dict())[name]), name


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_reset_classifier_takes_foreign_features(library: str) -> None:
    network = Network(replace(B0, num_classes=10))
    state = _reference(library, "efficientnet_b0").state_dict()
    with pytest.raises(WeightsError, match="1000 classes apart, efficientnet-b0 10"):
        load_weights(network, state)
    load_weights(network, state, reset_classifier=True)
    stem = next(iter(state.values()))
    assert torch.equal(network.state_dict()["stem.branch.conv.conv.weight"], stem)


def _changed(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    if how == "missing":
        return {name: t for name, t in state.items() if ".se." not in name}
    if how == "unexpected":
        return {**state, "extra.weight": torch.zeros(1)}
    return {name: t[:-1] if name.endswith("project.norm.bias") else t for name, t in state.items()}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"missing stages\.0\.0\.branch\.se\.reduce\.weight, .*, .* and 17 more"),
        ("unexpected", r"unexpected extra\.weight\. Load them into the architecture"),
        ("shape", r"of another shape stages\.0\.0\.branch\.project\.norm\.bias \(15,\) instead of"),
    ],
)
def test_weights_that_differ_change_nothing(how: str, message: str) -> None:
    torch.manual_seed(0)
    network, state = Network(SMALL), Network(SMALL).state_dict()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(network, _changed(state, how))
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_weights_of_another_member_are_refused() -> None:
    state = _reference("timm", "efficientnet_b0").state_dict()
    with pytest.raises(WeightsError, match=r"timm naming.* efficientnet-b2: missing blocks\.0\.1"):
        load_weights(Network(_b2()), state)


@pytest.mark.parametrize(
    "architecture",
    [
        replace(SMALL, name="headless", head_width=0),
        replace(
            SMALL,
            name="plain",
            stages=(Stage(block=PlainConv(), width=8, repeats=1, stride=1),),
        ),
    ],
    ids=lambda architecture: architecture.name,
)
def test_foreign_names_need_an_efficientnet(architecture: Architecture) -> None:
    state = _reference("timm", "efficientnet_b0").state_dict()
    with pytest.raises(WeightsError, match=f"fit MBConv stages and a head; {architecture.name}"):
        load_weights(Network(architecture), state)


@pytest.mark.parametrize("state", [{}, {"state_dict": torch.zeros(1)}, {"conv1.weight": 1}])
def test_unknown_names_are_shown(state: dict[str, Tensor]) -> None:
    with pytest.raises(
        WeightsError, match=r"names \((none|state_dict|conv1\.weight)\) are neither"
    ):
        load_weights(Network(SMALL), state)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .*none\.safetensors"):
        read_weights(tmp_path / "none.safetensors")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(Network(SMALL).state_dict(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt is not a whole safetensors file"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_file_that_cannot_be_mapped_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"/proc/self/mem cannot be read: "):
        read_weights(Path("/proc/self/mem"))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(Network(SMALL), file)
    whole = file.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="not a whole safetensors file"):
            read_weights(file)
