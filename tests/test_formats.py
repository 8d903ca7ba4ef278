"""A graph that torch.export follows, and how far a file's logits may be from PyTorch's."""

import pytest
import torch
from torch import Tensor, nn

from nas.models import formats
from nas.models.formats import ExportError, compare


class _Decides(nn.Module):
    """Looks at values, which a graph cannot."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def test_what_cannot_be_followed_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"cannot follow the module .* decisions on tensors"):
        formats.trace(_Decides().eval(), (3, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_compare_measures_differences() -> None:
    images = torch.eye(3)
    check = compare("x", lambda x: x + 1e-5, nn.Identity(), images)
    assert check.batch_size == 3
    assert check.max_abs_difference == pytest.approx(1e-5, rel=1e-2)
    assert check.same_classes
    tied = compare("x", lambda x: x + 1e-5 * images, nn.Identity(), torch.zeros(3, 3))
    assert not tied.same_classes
    with pytest.raises(ExportError, match="differs from PyTorch by inf"):
        compare("x", lambda x: x[:, :2], nn.Identity(), images)
    with pytest.raises(ExportError, match="differs from PyTorch by nan"):
        compare("x", lambda x: x * torch.nan, nn.Identity(), images)


class _Cancels(nn.Module):
    """Small differences of large numbers."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images + 3000) - 3000


def test_a_difference_that_float32_explains_is_accepted() -> None:
    images = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    check = compare("x", lambda x: x, _Cancels(), images)
    assert 1e-4 < check.max_relative_difference < 2e-4
    with pytest.raises(ExportError, match=r"by 1\.0e-03 .* \(at most 0\.000[45] is accepted\)"):
        compare("x", lambda x: _Cancels()(x) + 1e-3 * images.max(), _Cancels(), images)


class _HoldsToFloat32(nn.Module):
    """Multiplies by a matrix that is made as it runs."""

    def forward(self, images: Tensor) -> Tensor:
        return images @ torch.eye(3)


def test_a_module_that_has_no_float64_fails_by_its_difference() -> None:
    with pytest.raises(ExportError, match=r"by 1\.0e-03 .* \(at most 0\.0001 is accepted\)"):
        compare("x", lambda x: x + 1e-3, _HoldsToFloat32(), torch.eye(3))
