"""Spectrally normalised discriminators under DistributedDataParallel, in two real processes."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, multiprocessing, nn

from gankern.nn import utils

STEPS = 3
RANKS = 2


def _discriminator(kind: str) -> tuple[nn.Module, utils.SpectralNormGroup | None]:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 4, stride=2), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 6, 3), nn.LeakyReLU(0.2)),
        *(nn.Flatten(), nn.Linear(6 * 5 * 5, 1)),
    ).double()
    if kind != "single":
        return model, utils.group_spectral_norm(model, update=kind)
    for layer in (model[0], model[2], model[5]):
        utils.spectral_norm(layer)
    return model, None


def _train(model: nn.Module, group: utils.SpectralNormGroup | None, rows: slice) -> list[torch.Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        real, fake = (torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)[rows] for _ in range(2))
        optimizer.zero_grad()
        # Two forwards before the backward: between them DDP writes rank 0's buffers into every rank's.
        on_real, on_fake = model(real), model(fake)
        (torch.relu(1 - on_real).mean() + torch.relu(1 + on_fake).square().mean()).backward()
        optimizer.step()
        if group is not None and group.update == "step":
            group.step()
    return [x.detach().clone() for x in model.state_dict().values()]


def _rank(rank: int, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    try:
        model, group = _discriminator(kind)
        wrapped = nn.parallel.DistributedDataParallel(model)
        rows = slice(rank * 2, rank * 2 + 2)
        torch.save(_train(wrapped, group, rows), f"{folder}/{rank}.pt")
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["single", "forward", "step"])
def test_two_processes(kind, tmp_path):
    """Parameters and vectors of both ranks are those of one process with the whole batch."""
    multiprocessing.spawn(_rank, (str(tmp_path), kind), nprocs=RANKS)
    expected = _train(*_discriminator(kind), slice(None))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for one, other, want in zip(*ranks, expected, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, want, rtol=1e-9, atol=1e-9)
