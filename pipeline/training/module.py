"""The LightningModule of a run: model, loss, optimizer, and nothing else.

Shapes: B windows or examples of a micro-batch, T tokens, D = n width, V outputs (vocabulary or classes), N positions (B
T tokens or B examples), F fields of a `LossOutput`, K sums of the logits. Targets are (B, T) of text, (B,) of examples;
hidden states have one more axis, D.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config import RunConfig
from pipeline.data.batches import Batch, Shuffled
from pipeline.data.open import Data
from pipeline.data.order import sample_order, validation_batches
from pipeline.data.prefetch import prefetched, together
from pipeline.diagnostics.logits import logit_metrics, logit_sums
from pipeline.entries.losses import LOSSES
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.entries.schedules import SCHEDULES
from pipeline.errors import RequestError
from pipeline.losses import LossOutput, Settings, linear_loss
from pipeline.models.build import build
from pipeline.models.init import initialize_
from pipeline.optim import build_optimizer, parameter_groups
from pipeline.scaling import scaling_of
from pipeline.training.parallel import zero
from pipeline.training.parallel.fsdp import reshard_
from pipeline.training.parallel.ranks import gather
from pipeline.training.parallel.strategies import strategy_of

VECTORS_AT_ONCE = 1024  # in a validation's forward pass


class TrainingModule(pl.LightningModule):
    """A model at one width under one parameterization.

    `passes` collects the `LossOutput` of every forward pass, as a vector (F,), until `pipeline.training.log` reads
    and clears them.
    """

    def __init__(self, config: RunConfig, data: Data) -> None:
        super().__init__()
        self.config, self.data = config, data
        given = config.micro_batch
        self.micro_batch = given if isinstance(given, int) else config.global_batch // config.world_size
        """Sequences per forward pass; where the config says auto, `MicroBatch` finds the right number in time."""
        self.scaling = scaling_of(config)
        self.model, self.specs = build(config)
        initialize_(self.model, self.specs, self.scaling, config.seed)
        self.loss_settings = Settings(
            config.loss,
            config.loss_scale,
            config.z_loss,
            accuracy=config.n_classes is not None,
            normalize=self.model.readout.normalize,
        )
        self.passes: list[Tensor] = []
        self.beside: dict[str, Tensor] = {}  # what checkpoints hold beside weights and the optimizer's state, by name
        self.last_gradient_norm: Callable[[], Tensor] = lambda: torch.tensor(0.0)
        self._batches: Generator[Batch] | None = None

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step on one device."""
        return self.config.global_batch // (self.micro_batch * self.config.world_size)

    def configure_model(self) -> None:
        if (shard_ := strategy_of(self.config).shard_) is not None:
            shard_(self.model, self.device_mesh["data_parallel"])

    def loss(self, batch: Batch) -> LossOutput:
        """The training loss of a batch, the mean over its tokens or examples, and what else is recorded of it."""
        inputs, targets = inputs_and_targets(batch)
        with self._precision():
            return self.loss_of(self.model(inputs), targets)

    def _precision(self) -> torch.autocast:
        # here, not in Lightning's plugins, of which DeepSpeed's would cast the weights themselves
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16-mixed")

    def loss_of(self, h: Tensor, targets: Tensor) -> LossOutput:
        """The same, of what the readout is applied to."""
        readout = self.model.readout  # weight (V, D), bias (V,)
        h_ND, targets_N = h.reshape(-1, h.shape[-1]), targets.reshape(-1)
        return linear_loss(h_ND, readout.weight, targets_N, readout.bias, **vars(self.loss_settings))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.loss(batch)
        self.passes.append(output.to_vector())
        return output.loss

    def finite_so_far(self) -> bool:
        """Whether the losses of this process's passes that nobody has read yet are."""
        return bool(torch.stack(self.passes)[:, 0].isfinite().all())

    def validation_step(self, batch: Batch) -> Tensor:
        """Called by `validate` through the strategy, whose wrappers may have to gather weights for it: (F,) a
        `LossOutput` or, while there are coordinate checks, (F + K,): behind it the sums that `logit_metrics` needs."""
        inputs, targets = inputs_and_targets(batch)
        with self._precision():
            h, readout = self.model(inputs), self.model.readout
            loss_F = self.loss_of(h, targets).to_vector().double()
        if not self._measures_logits:
            return loss_F
        h_ND, targets_N = h.reshape(-1, h.shape[-1]), targets.reshape(-1)
        sums_K = logit_sums(h_ND, readout.weight, targets_N, readout.bias, normalize=readout.normalize)
        return torch.cat([loss_F, sums_K])

    @property
    def _measures_logits(self) -> bool:
        return self.config.diagnostics.on and not LOSSES[self.config.loss].scalar  # they are logits of classes

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        if not zero.is_zero(self.trainer):  # it clips in its own step
            self.clip_gradients()

    def clip_gradients(self) -> None:
        """To `--grad_clip`, if it says so; their norm before it is kept."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.last_gradient_norm = lambda: whole
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), self.config.grad_clip, whole)

    @property
    def gradient_norm(self) -> float:
        """Global norm of the last step's gradient before clipping."""
        return zero.gradient_norm(self.trainer) if zero.is_zero(self.trainer) else self.last_gradient_norm().item()

    def configure_optimizers(self) -> dict[str, Any]:
        c = self.config
        assert c.weight_decay is not None
        groups = parameter_groups(
            self.model.named_parameters(),
            self.specs,
            self.scaling,
            lr=c.lr,
            weight_decay=c.weight_decay,
            weight_decay_scaling=c.weight_decay_scaling,
            eps=c.eps if "eps" in OPTIMIZERS[c.optimizer].settings else None,
        )
        optimizer = build_optimizer(c, groups)
        factor = lambda step: SCHEDULES[c.schedule].factor(c, step)  # noqa: E731
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def train_dataloader(self) -> Iterator[Batch]:
        """Called by Lightning after a checkpoint is restored, so that reading goes on from there."""
        batches = self.data.train.batches(
            first_step=self.trainer.global_step,
            micro_batch=self.micro_batch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        if self.config.data.vectors and self.device.type == "cpu":
            return batches  # they are made faster than a thread hands them over
        self._batches = prefetched(batches, pin=self.device.type == "cuda")
        return together(self._batches) if self.config.data.mode == "stream" else self._batches

    def close(self) -> None:
        """End the thread and the processes that read."""
        self.data.train.close()
        if self._batches is not None:
            self._batches.close()

    def data_state(self) -> dict[str, Any]:
        """The state of the data, for a checkpoint: the settings that decide its order, and how far it is read. To be
        called by all processes."""
        state = self.data.train.state(self.trainer.global_step)
        if state.numel():
            state = torch.stack(gather(state)).sum(0)
        return {**self._data_settings(), "state": state.tolist()}

    def restore_data(self, saved: dict[str, Any], step: int) -> None:
        """Go on as `data_state` says. Raises `RequestError` naming what differs, where it is of other samples."""
        for name, value in self._data_settings().items():
            if saved.get(name) != value:
                raise RequestError(
                    f"the checkpoint was trained with another {name} of its data ({saved.get(name)}, now {value}): "
                    "give another --study or --out"
                )
        self.data.train.restore(step, torch.tensor(saved["state"], dtype=torch.int64))

    def _data_settings(self) -> dict[str, Any]:
        c = self.config
        settings = {"manifest": self.data.fingerprint, "seed": c.seed, "seq_len": c.seq_len, "batch": c.global_batch}
        return settings | ({"lanes": c.data.lanes, "era": c.data.era} if c.data.mode == "stream" else {})

    @torch.no_grad()
    def validate(self) -> tuple[Tensor, dict[str, float]]:
        """A `LossOutput` (F,), means over the validation samples, all ranks together; and the metrics of the logits
        (`logit_metrics`)."""
        batches = validation_batches(
            self.data.val,
            count=self.config.val_sequences,
            batch=max(self.micro_batch, VECTORS_AT_ONCE) if self.config.data.vectors else self.micro_batch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        F = len(LossOutput._fields)
        rows = []  # (F + 1 + K,): sums of the losses, the samples, sums of the logits
        for batch, size in batches:
            output = self.trainer.strategy.validation_step(self.trainer.strategy.batch_to_device(batch))
            row = torch.cat([output[:F] * size, output.new_full((1,), size), output[F:]])
            rows.append(row if size else torch.zeros_like(row))  # the pass was for the sake of other ranks
        reshard_(self.model)
        total: Tensor = self.trainer.strategy.reduce(torch.stack(rows).sum(0), reduce_op="sum")
        logits = logit_metrics(total[F + 1 :]) if self._measures_logits else {}
        return total[:F] / total[F], logits


def inputs_and_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Of windows (B, T + 1): the tokens (B, T), and the one after each (B, T); of examples: vectors (B, d_in) and their
    classes or real values (B,)."""
    return (batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else batch


def first_samples(data: Data, config: RunConfig, count: int) -> Batch:
    """The first samples that the run trains on; where it streams, those that it is validated with."""
    places = np.arange(count)
    if isinstance(data.train, Shuffled):
        samples = data.train.samples
        return samples[sample_order(places, len(samples), config.seed)]
    return data.val[places % len(data.val)]
