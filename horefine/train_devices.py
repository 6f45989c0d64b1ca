"""Where training runs: in one process, or in several that ``torchrun`` or ``accelerate launch`` started.

One process needs torch alone. Several are joined by Hugging Face's accelerate: each takes its own scenes, gradients are
averaged, and the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from horefine.errors import AssetError, ConfigError

__all__ = ["Devices", "Several", "open_devices"]

PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which makes data and measures."""


class Devices:
    """One process on one device."""

    number, count = 0, 1

    def __init__(self, device: str) -> None:
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this process writes files and says what happens."""
        return self.number == 0

    def joined(self, losses: Callable[..., dict[str, Tensor]], network: nn.Module) -> Callable[..., dict[str, Tensor]]:
        """``losses`` as it is to be called; with several processes their gradients come out averaged."""
        return losses

    def backward(self, loss: Tensor) -> None:
        """Adds the loss' gradient to the network's."""
        loss.backward()

    def same(self, value: float) -> float:
        """The first process' value."""
        return value

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes."""
        return values

    def wait(self) -> None:
        """Until every process is here."""

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does what is inside; then the others do."""
        yield


class _Losses(nn.Module):
    """The losses as a module's forward pass: what torch's DistributedDataParallel averages the gradients of."""

    def __init__(self, losses: Callable[..., dict[str, Tensor]], network: nn.Module) -> None:
        super().__init__()
        self.network, self.losses = network, losses

    def forward(self, *args: Any) -> dict[str, Tensor]:
        return self.losses(*args)


class Several(Devices):
    """One of several processes, each on its own device."""

    def __init__(self, on_cpu: bool) -> None:
        """Joins the others.

        Raises:
            AssetError: accelerate is not installed.
        """
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ImportError as error:
            raise AssetError(
                f"training in several processes needs accelerate ({error}); pip install 'horefine[train]'"
            ) from None
        # a step may leave parameters out (a head whose loss has no pixels)
        options = [DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=PATIENCE)]
        self.accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=options)
        super().__init__(str(self.accelerator.device))
        self.number, self.count = self.accelerator.process_index, self.accelerator.num_processes

    def joined(self, losses: Callable[..., dict[str, Tensor]], network: nn.Module) -> Callable[..., dict[str, Tensor]]:
        return self.accelerator.prepare_model(_Losses(losses, network))

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def same(self, value: float) -> float:
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor([value], dtype=torch.float32, device=self.device))[0])  # type: ignore

    def mean(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, "mean")  # type: ignore[return-value]

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        with self.accelerator.main_process_first():
            yield


def open_devices(device: str) -> Devices:
    """Where to train: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; in as many processes as were started together.

    Raises:
        ConfigError: no such device here.
        AssetError: several processes without accelerate.
    """
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: {device!r}; known: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {device!r}: torch sees no GPU here; give cpu, or install torch with CUDA")
    on_cpu = kind == "cpu" or not torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Several(on_cpu)
    return Devices("cpu" if on_cpu else "cuda" if kind == "auto" else device)
