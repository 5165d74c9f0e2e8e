"""What every training run shares: network, batches, precision, the descent, and one report an epoch."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor, nn

from fasten_model.device import resolve_device
from fasten_model.images.augment import crop, draw_flips, draw_shifts, normalize
from fasten_model.images.feed import Feed
from fasten_model.images.source import Images
from fasten_model.modes import in_evaluation
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.train.averaging import AveragedWeights
from fasten_model.train.batch import Batch, Part, StepLosses, TrainingStep
from fasten_model.train.checkpoint import CheckpointFolder
from fasten_model.train.config import TrainConfig
from fasten_model.train.metrics import Diverged, EpochMetrics, Observer, OnEpoch, epoch_metrics, log_epoch
from fasten_model.train.optimizer import build_optimizer, learning_rate
from fasten_model.train.plan import (
    CleanGroup,
    CleanPlan,
    Indices,
    epochs_over,
    noisy_epoch,
    own_share,
    steps_per_epoch,
)
from fasten_model.train.process import ALONE, Process, SharedError
from fasten_model.train.replica import replica
from fasten_model.train.resume import Keeper, TrainingState
from fasten_model.train.seeds import derived_seed, generator
from fasten_model.train.stopping import Stop

_WHITENING_IMAGES = 5000
"""Enough for a trunk whose first layer is computed from images."""
SMALLER = "take a preset with smaller batches (noisy_batch, clean_batch), smaller images or a smaller trunk"
"""What to do about a GPU whose memory does not suffice."""


class Loop:
    """One run over a set of N samples. It never waits for the device within an epoch.

    Every random number is a function of the seed and of the step that it is for: nothing of it need be saved, and
    processes that train together draw the same.
    """

    def __init__(
        self, config: TrainConfig, num_classes: int, *, process: Process = ALONE, trunk: nn.Module | None = None
    ) -> None:
        """trunk: a module of the caller's, of which a copy is trained, in place of the one that `config` names."""
        self.config = config
        self.settings = config.settings()
        self.process = process
        self.device = resolve_device(config.device)
        self._on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[]):  # the caller's random state is left as it was
            torch.manual_seed(derived_seed(config.seed, "network"))
            network = build_network(
                self.settings.trunk if trunk is None else trunk,
                num_classes,
                image_size=self.settings.image_size,
                weights=config.trunk_weights,
            )
        self.network: TwoHeadNetwork = network.to(self.device).train()
        # On a CPU too: the step of the small trunk takes a fifth less.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.network, self.settings)
        decay = config.switches().ema
        self._average = AveragedWeights(self.network, decay) if decay > 0 else None
        self._module: Callable[[Tensor], tuple[Tensor, Tensor]] = self.network
        if config.compile and process.world == 1:
            self._module = self._compiled(self.network)

    def inputs(self, part: Part, step: int, stream: str) -> Tensor:
        """The part's images augmented and normalised, float [b,3,S,S]: the same for the same (part, step, stream)."""
        random = generator(self.config.seed, stream, step, device=self.device)
        padding = self.settings.crop_padding
        shifts = draw_shifts(part.size, padding, random)
        flips = draw_flips(part.size, random) if self.settings.horizontal_flip else None
        if part.positions is not None:
            shifts, flips = shifts[:, part.positions], None if flips is None else flips[part.positions]
        return normalize(crop(part.images, shifts, padding, self.settings.crop_fill, flips))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """float [B,3,S,S] → (clean logits, noisy logits), [B,K] each."""
        return self._through(self._module, images)

    @torch.no_grad()
    def forward_in_evaluation(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B,3,S,S], not augmented, BatchNorm with running statistics → (clean logits, noisy logits)."""
        self.network.eval()
        try:
            # A replica stays in training mode; on the weights that both share the network answers for it.
            return self._through(self._module if self.process.world == 1 else self.network, normalize(images))
        finally:
            self.network.train()

    def _through(self, module: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.compile and not self.config.cuda_graphs:
            # Noisy and clean batches, the smaller ones of an epoch and held-out samples: one graph for all sizes.
            torch._dynamo.maybe_mark_dynamic(images, 0)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._on_gpu):
            clean_logits, noisy_logits = module(images)
        return clean_logits, noisy_logits

    def _compiled(self, module: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        # A CUDA graph is of one shape: then each size of batch is compiled for itself.
        return torch.compile(module, mode="reduce-overhead" if self.config.cuda_graphs else None)

    @torch.no_grad()
    def forward_as_trained(self, images: Tensor, step: int) -> Tensor:
        """uint8 [H,3,S,S], augmented, BatchNorm with the batch's statistics → clean logits [H,K]; nothing is learnt."""
        kept = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        part = Part(index=torch.empty(0), images=images.to(self.device), positions=None, size=len(images))
        logits, _ = self.forward(self.inputs(part, step, "held out"))
        for name, buffer in self.network.named_buffers():
            buffer.copy_(kept[name])
        return logits.clone()  # a CUDA graph's own memory is written over by its next replay

    def epochs(self, count: int) -> int:
        """Epochs over `count` samples (`epochs_over`)."""
        return epochs_over(count, self.settings)

    def run(
        self,
        step: TrainingStep,
        *,
        noisy_images: Tensor | Images,
        clean_images: Tensor | Images | None = None,
        clean_groups: Sequence[CleanGroup] | None = None,
        on_epoch: OnEpoch | None = None,
        observer: Observer | None = None,
        checkpoint: CheckpointFolder | None = None,
        stop: Stop | None = None,
    ) -> tuple[EpochMetrics, ...]:
        """All epochs: each visits every noisy sample once, and with each batch of them comes one of the clean samples.

        clean_groups: as for `CleanPlan`; all clean samples alike unless given. on_epoch, observer: called in the first
        process, for the epochs that end in it. checkpoint: saved to, and gone on from where it holds one; only the
        first process's counts. stop: raises `Stopped` after the step in which it was asked for, in every process.
        """
        count = len(noisy_images)
        batches, epochs = steps_per_epoch(count, self.settings.noisy_batch), self.epochs(count)
        self._prepare(noisy_images)
        feeds = _Feeds(self, noisy_images, clean_images, clean_groups)
        state = TrainingState(self.network, self.optimizer, self._average, step)
        devices = [self.device] if self._on_gpu else []
        with torch.random.fork_rng(devices), Keeper(state, self.process, checkpoint, stop) as keeper:
            sound = self._finite()
            begun = keeper.start()
            history, done = list(begun.history), begun.step
            totals, started = begun.losses.to(self.device), time.perf_counter() - begun.seconds
            while done < epochs * batches:
                epoch = done // batches
                try:
                    for batch in feeds.rest_of_epoch(epoch, done, batches, epochs):
                        losses = self._descend(step, batch)
                        totals += torch.stack([losses.total.detach(), losses.forward, losses.clean, losses.noisy])
                        done = batch.step + 1
                        if done % batches:
                            keeper.after_step(done, totals, time.perf_counter() - started, history)
                    means = self.process.sum(totals) / batches
                    if self._on_gpu:  # what has been launched is not done yet
                        torch.cuda.synchronize(self.device)
                    seconds = time.perf_counter() - started
                    metrics = epoch_metrics(epoch + 1, epochs, means, step.metrics(), batch.lr, seconds)
                    if done == epochs * batches:
                        self._check_alive(sound, batch)
                except Diverged as error:  # in every process, of what all have the same of
                    keeper.give_up()
                    raise SharedError(str(error)) from error
                history.append(metrics)
                self._tell(metrics, on_epoch, observer)
                totals, started = torch.zeros_like(totals), time.perf_counter()
                keeper.after_step(done, totals, 0.0, history, last=done == epochs * batches)
        return tuple(history)

    def _finite(self) -> Tensor:
        """bool [P], on the device: which parameters and buffers, of the weights that are averaged too, are finite."""
        modules = [self.network] if self._average is None else [self.network, self._average.network]
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        return torch.stack([torch.isfinite(tensor).all() for tensor in tensors])

    @torch.no_grad()
    def _check_alive(self, sound: Tensor, last: Batch) -> None:
        """`Diverged`, in every process, where the last step has lost the network: no loss tells of that any more.

        Weights can be finite, and too large for any number to come out: so it is asked about its last batch as well.
        sound: `_finite` before training, as a buffer may hold −∞ on purpose (a mask).
        """
        network = self.scoring_network()
        with in_evaluation(network):  # not the compiled one, which would be compiled again
            logits = torch.cat(self._through(network, normalize(last.noisy.images)))
        lost = (sound & ~self._finite()).any() | ~torch.isfinite(logits).all()
        if self.process.any(bool(lost))[0]:
            raise Diverged(f"training diverged in step {last.step}, its last; lower lr (it was {last.lr:.2g})")

    def _prepare(self, noisy_images: Tensor | Images) -> None:
        """What can only be done once the images are known, and every step of the method is set up."""
        initialise = getattr(self.network.trunk, "initialise_from", None)
        if callable(initialise):  # a trunk whose first layer is computed from images
            some = noisy_images[:_WHITENING_IMAGES] if isinstance(noisy_images, Tensor) else _first(noisy_images)
            initialise(some.to(self.device))
        if self.process.world > 1:
            module = replica(self.network, self.device, noisy_images.shape[-1])
            self._module = self._compiled(module) if self.config.compile else module

    def _tell(self, metrics: EpochMetrics, on_epoch: OnEpoch | None, observer: Observer | None) -> None:
        if not self.process.is_first:
            return
        log_epoch(metrics)
        if on_epoch is not None:
            on_epoch(metrics)
        if observer is not None:
            observer(metrics.epoch, self.scoring_network())

    def scoring_network(self) -> TwoHeadNetwork:
        """The network that predicts and scores: with averaged weights where they are averaged."""
        return self.network if self._average is None else self._average.network

    def trained_network(self) -> TwoHeadNetwork:
        """The same on the CPU, in evaluation mode: what training leaves."""
        return self.scoring_network().cpu().eval()

    def _descend(self, step: TrainingStep, batch: Batch) -> StepLosses:
        self._seed_layers(batch.step)
        for group in self.optimizer.param_groups:
            group["lr"] = batch.lr
        self.optimizer.zero_grad(set_to_none=True)
        losses = step(batch)
        # A replica's gradients are the mean over the processes, the losses are summands.
        total = losses.total if self.process.world == 1 else losses.total * self.process.world
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self._average is not None:
            self._average.update(self.network, batch.step)
        return losses

    def _seed_layers(self, step: int) -> None:
        """Layers that draw random numbers, as dropout does, take them from torch's own generators."""
        seed = derived_seed(self.config.seed, "layers", step, self.process.rank)
        torch.default_generator.manual_seed(seed)
        if self._on_gpu:
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            torch.cuda.default_generators[index].manual_seed(seed)


class _Feeds:
    """The batches of a run, from any step on."""

    def __init__(
        self,
        loop: Loop,
        noisy_images: Tensor | Images,
        clean_images: Tensor | Images | None,
        clean_groups: Sequence[CleanGroup] | None,
    ) -> None:
        self._settings, self._seed, self._process = loop.settings, loop.config.seed, loop.process
        self._device, self._count = loop.device, len(noisy_images)
        self._noisy = Feed(self._process.own_images(noisy_images), self._device)
        self._clean: Feed | None = None
        if clean_images is not None:
            self._clean = Feed(self._process.own_images(clean_images), self._device)
            groups = clean_groups or [CleanGroup(torch.arange(len(clean_images)), self._settings.clean_batch)]
            self._plan = CleanPlan(groups, seed=self._seed)

    def rest_of_epoch(self, epoch: int, start: int, batches: int, epochs: int) -> Iterator[Batch]:
        """The steps of `epoch` (from 0) from step `start` on."""
        steps = range(start, (epoch + 1) * batches)
        order = noisy_epoch(self._count, self._settings.noisy_batch, seed=self._seed, epoch=epoch)
        noisy = self._parts(self._noisy, order[-len(steps) :])
        clean: Iterator[Part | None] = repeat(None, len(steps))
        if self._clean is not None:
            clean = self._parts(self._clean, [self._plan.batch(step) for step in steps])
        for step, noisy_part, clean_part in zip(steps, noisy, clean, strict=True):
            yield Batch(
                step=step,
                steps=epochs * batches,
                lr=learning_rate(step, epochs * batches, self._settings),
                noisy=noisy_part,
                clean=clean_part,
            )

    def _parts(self, feed: Feed, order: Indices) -> Iterator[Part]:
        """Each step's part of a set, its images on the device."""
        own, places = own_share(order, self._process)
        sizes = [len(index) for index in own]
        index = torch.split(torch.cat(own).to(self._device), sizes)  # one transfer for the epoch
        positions = None if places is None else torch.split(torch.cat(places).to(self._device), sizes)
        for number, images in enumerate(feed.batches(own)):
            yield Part(
                index=index[number],
                images=images,
                positions=None if positions is None else positions[number],
                size=len(order[number]),
            )


def _first(images: Images) -> Tensor:
    return images.take(torch.arange(min(_WHITENING_IMAGES, len(images))))
