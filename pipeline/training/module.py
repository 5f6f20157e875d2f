"""The LightningModule of a run: model, loss, optimizer, and nothing else."""

from collections.abc import Generator, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config import RequestError, RunConfig
from pipeline.data.open import Batch, Data
from pipeline.data.order import validation_batches
from pipeline.data.prefetch import prefetched, together
from pipeline.losses import LossOutput, linear_loss
from pipeline.models.build import build
from pipeline.models.init import initialize_
from pipeline.optim import build_optimizer, parameter_groups, schedule
from pipeline.scaling import scaling_of


class TrainingModule(pl.LightningModule):
    """A model at one width under one parameterization.

    `passes` collects the `LossOutput` of every forward pass, as a vector, and `grad_norm` holds the last step's
    gradient norm before clipping; `pipeline.training.callbacks.Recorder` reads and clears them.
    """

    def __init__(self, config: RunConfig, data: Data) -> None:
        super().__init__()
        self.config, self.data = config, data
        self.scaling = scaling_of(config)
        self.model, self.specs = build(config)
        initialize_(self.model, self.specs, self.scaling, config.seed)
        self.passes: list[Tensor] = []
        self.grad_norm = torch.tensor(0.0)
        self._batches: Generator[Batch] | None = None

    def loss(self, batch: Batch) -> LossOutput:
        """The training loss of a batch, the mean over its tokens or examples, and what else is recorded of it."""
        inputs, targets = (batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else batch
        hidden, readout = self.model(inputs), self.model.readout
        return linear_loss(
            hidden.reshape(-1, hidden.shape[-1]),
            readout.weight,
            targets.reshape(-1),
            readout.bias,
            loss=self.config.loss,
            z_loss=self.config.z_loss,
            accuracy=self.config.is_classification,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.loss(batch)
        self.passes.append(output.to_vector())
        return output.loss

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), self.config.grad_clip, self.grad_norm)

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
        )
        optimizer = build_optimizer(c, groups)
        factor = lambda step: schedule(step, steps=c.steps, warmup_steps=c.warmup_steps, min_ratio=c.lr_min_ratio)  # noqa: E731
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def train_dataloader(self) -> Iterator[Batch]:
        """Called by Lightning after a checkpoint is restored, so that reading goes on from there."""
        assert self.config.micro_batch is not None
        batches = self.data.train.batches(
            first_step=self.trainer.global_step,
            micro_batch=self.config.micro_batch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        self._batches = prefetched(batches, pin=self.device.type == "cuda")
        return together(self._batches) if self.config.data.mode == "stream" else self._batches

    def close(self) -> None:
        """End the thread and the processes that read."""
        self.data.train.close()
        if self._batches is not None:
            self._batches.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What goes on in the data: the settings that decide its order, and how far it is read. Called on all ranks."""
        step = self.trainer.global_step
        state = self.data.train.state(step).to(self.device)
        if state.numel():
            state = self.trainer.strategy.reduce(state, reduce_op="sum")
        checkpoint["data"] = {**self._data_settings(), "state": state.cpu()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises `RequestError` naming what differs, where the checkpoint is of another sequence of samples."""
        saved = checkpoint["data"]
        for name, value in self._data_settings().items():
            if saved.get(name) != value:
                raise RequestError(
                    f"the checkpoint was trained with another {name} of its data ({saved.get(name)}, now {value}): "
                    "give another --study or --out"
                )
        self.data.train.restore(checkpoint["global_step"], saved["state"])

    def _data_settings(self) -> dict[str, Any]:
        c = self.config
        settings = {"manifest": self.data.fingerprint, "seed": c.seed, "seq_len": c.seq_len, "batch": c.global_batch}
        return settings | ({"lanes": c.data.lanes, "era": c.data.era} if c.data.mode == "stream" else {})

    @torch.no_grad()
    def validate(self) -> LossOutput:
        """Means over the validation samples, all ranks together."""
        assert self.config.micro_batch is not None
        batches: Iterator[Batch] = validation_batches(
            self.data.val,
            count=self.config.val_sequences,
            batch=self.config.micro_batch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        total, count = torch.zeros(len(LossOutput._fields), dtype=torch.float64, device=self.device), 0
        for batch in batches:
            size = len(batch) if isinstance(batch, Tensor) else len(batch[0])
            with self.trainer.precision_plugin.val_step_context():
                total += self.loss(self.trainer.strategy.batch_to_device(batch)).to_vector().double() * size
            count += size
        summed: Tensor = self.trainer.strategy.reduce(torch.cat([total, total.new_tensor([count])]), reduce_op="sum")
        return LossOutput.from_vector(summed[:-1] / summed[-1])
