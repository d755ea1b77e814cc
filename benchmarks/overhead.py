"""Microseconds per optimizer step on a small network: lehr beside plain loops and the frameworks that are installed.

The same work for all: AdamW at 1e-3 with decay 0.01, gradients clipped at norm 1, a cosine over the rate, batches of
32 of 4096 samples shuffled in each epoch, cross entropy, a network 64 - width - width - 10, one thread, and the mean
loss known every 10 steps. lehr runs with its default tracking (metrics.jsonl and the progress display) and its finite
check at each step.

    python benchmarks/overhead.py
    pip install lightning transformers accelerate pytorch-ignite keras   # to have them in the table
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import logging
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lehr
from lehr.losses import Supervised, cross_entropy
from lehr.optim import AdamW
from lehr.schedules import WarmupCosine

SAMPLES, FEATURES, CLASSES, BATCH = 4096, 64, 10, 32
RATE, DECAY, CLIP, LOG_EVERY = 1e-3, 0.01, 1.0, 10


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
    labels = (inputs[:, :CLASSES] + 0.5 * torch.randn(SAMPLES, CLASSES, generator=generator)).argmax(dim=1)
    return inputs, labels


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


class Chunks:
    """A loop that runs on in chunks of steps; the time of each chunk is taken from inside, between two steps."""

    def __init__(self, steps: Iterator[Any], chunk: int, warm_up: int) -> None:
        self.steps, self.chunk = steps, chunk
        for _ in itertools.islice(steps, warm_up):
            pass

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in itertools.islice(self.steps, self.chunk):
            pass
        return (time.perf_counter() - start) / self.chunk * 1e6


def idiomatic(width: int, total: int) -> Iterator[None]:
    """The loop of most tutorials."""
    model = network(width)
    loader = DataLoader(TensorDataset(*data()), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    criterion = nn.CrossEntropyLoss()
    step, running = 0, 0.0
    while True:
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            running += loss.item()
            step += 1
            if step % LOG_EVERY == 0:
                running = 0.0
            yield


def fast(width: int, total: int) -> Iterator[None]:
    """What somebody writes who wants it fast: tensors indexed directly, the fused optimizer, the rate by hand."""
    model = network(width)
    inputs, labels = data()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY, fused=True)
    step, running = 0, torch.zeros(())
    while True:
        order = torch.randperm(SAMPLES)
        for start in range(0, SAMPLES, BATCH):
            chosen = order[start : start + BATCH]
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / total))
            loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            running += loss.detach()
            step += 1
            if step % LOG_EVERY == 0:
                running.item()
                running.zero_()
            yield


def recipe(width: int, total: int, step: str = "eager") -> lehr.Recipe:
    """Return the network as a recipe of lehr's."""
    return lehr.Recipe(
        model=lambda: network(width),
        data=lehr.Data(train=data(), batch_size=BATCH),
        objective=Supervised(loss=cross_entropy),
        optim=AdamW(lr=RATE, weight_decay=DECAY),
        schedule=WarmupCosine(warmup=0),
        steps=total,
        clip=CLIP,
        save=lehr.Save(every="100%"),
        threads=1,
        step=step,
    )


def lehr_eager(width: int, total: int, step: str = "eager") -> Iterator[None]:
    from lehr.track import Progress

    folder = Path(tempfile.mkdtemp()) / "run"
    trainer = lehr.Trainer(
        recipe(width, total, step),
        run_dir=folder,
        trackers=[lambda steps: Progress(total_steps=steps, stream=io.StringIO())],
    )
    for batch in trainer.batches():
        trainer.step(batch)
        yield


def lehr_whole(width: int, total: int) -> Iterator[None]:
    """The same recipe with each update as one compiled graph; compiling is part of the warm-up."""
    return lehr_eager(width, total, step="whole")


def _in_thread(run: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Turn a framework's own loop, which calls back after each step, into an iterator of steps."""
    import greenlet

    parent = greenlet.getcurrent()
    child = greenlet.greenlet(lambda: run(lambda: parent.switch()))
    while True:
        child.parent = parent = greenlet.getcurrent()
        child.switch()
        if child.dead:
            return
        yield


def lightning_trainer(width: int, total: int) -> Iterator[None]:
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network(width)

        def training_step(self, batch: Any, _index: int) -> Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=DECAY)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def run(after: Callable[[], None]) -> None:
        class Pause(L.Callback):
            def on_train_batch_end(self, *_given: Any, **_named: Any) -> None:
                after()

        folder = tempfile.mkdtemp()
        trainer = L.Trainer(
            max_steps=total,
            max_epochs=-1,
            accelerator="cpu",
            gradient_clip_val=CLIP,
            log_every_n_steps=LOG_EVERY,
            logger=L.pytorch.loggers.CSVLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[Pause()],
        )
        trainer.fit(Module(), DataLoader(TensorDataset(*data()), batch_size=BATCH, shuffle=True))

    return _in_thread(run)


def hf_trainer(width: int, total: int) -> Iterator[None]:
    import transformers

    transformers.logging.set_verbosity_error()

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network(width)

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            scores = self.model(inputs)
            return {"loss": F.cross_entropy(scores, labels), "logits": scores}

    class Rows(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.inputs, self.labels = data()

        def __len__(self) -> int:
            return SAMPLES

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"inputs": self.inputs[index], "labels": self.labels[index]}

    def run(after: Callable[[], None]) -> None:
        class Pause(transformers.TrainerCallback):
            def on_step_end(self, *_given: Any, **_named: Any) -> None:
                after()

        arguments = transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            weight_decay=DECAY,
            max_grad_norm=CLIP,
            lr_scheduler_type="cosine",
            max_steps=total,
            logging_steps=LOG_EVERY,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(model=Classifier(), args=arguments, train_dataset=Rows(), callbacks=[Pause()])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()

    return _in_thread(run)


def accelerate_loop(width: int, total: int) -> Iterator[None]:
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = network(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    loader = DataLoader(TensorDataset(*data()), batch_size=BATCH, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    step, running = 0, 0.0
    while True:
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            running += loss.item()
            step += 1
            yield


def ignite_engine(width: int, total: int) -> Iterator[None]:
    from ignite.engine import Engine, Events
    from ignite.metrics import RunningAverage

    model = network(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)

    def update(_engine: Engine, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        return loss.item()

    def run(after: Callable[[], None]) -> None:
        engine = Engine(update)
        RunningAverage(output_transform=lambda loss: loss).attach(engine, "loss")
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=LOG_EVERY), lambda e: e.state.metrics.get("loss"))
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _e: after())
        loader = DataLoader(TensorDataset(*data()), batch_size=BATCH, shuffle=True)
        engine.run(loader, max_epochs=-(-total * BATCH // SAMPLES))

    return _in_thread(run)


def keras_fit(width: int, total: int) -> Iterator[None]:
    """The same network in Keras's layers, on its torch backend."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(CLASSES),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(RATE, total)
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=DECAY, global_clipnorm=CLIP),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def run(after: Callable[[], None]) -> None:
        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, *_given: Any, **_named: Any) -> None:
                after()

        inputs, labels = (tensor.numpy() for tensor in data())
        epochs = -(-total * BATCH // SAMPLES)
        model.fit(inputs, labels, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[Watch()])

    return _in_thread(run)


TARGETS = {
    ("lehr eager", "idiomatic loop"): {64: 0.65, 256: 0.65},
    ("lehr eager", "fast loop"): {64: 1.10, 256: 1.10},
    ("lehr whole step", "idiomatic loop"): {64: 0.35, 256: 0.6},
    ("lehr whole step", "fast loop"): {64: 0.6, 256: None},
}
"""The most that the first may take over the second, by width."""
OF_PEERS = {"lehr eager": 1.0, "lehr whole step": 1 / 3}
"""The same over each framework."""
PEERS = {
    "Lightning": ("lightning", lightning_trainer),
    "HF Trainer": ("transformers", hf_trainer),
    "Accelerate": ("accelerate", accelerate_loop),
    "ignite": ("ignite", ignite_engine),
    "Keras": ("keras", keras_fit),
}


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    repeats, chunk, warm_up = (3, 300, 100) if options.quick else (9, 1500, 300)
    total = repeats * chunk + warm_up + 10
    rows = []
    for width in (64, 256):
        makers = {"idiomatic loop": idiomatic, "fast loop": fast}
        makers |= {"lehr eager": lehr_eager, "lehr whole step": lehr_whole}
        makers |= {name: make for name, (package, make) in PEERS.items() if importlib.util.find_spec(package)}
        contestants = {name: Chunks(make(width, total), chunk, warm_up) for name, make in makers.items()}
        taken = common.alternate(contestants, repeats)
        for name, micros in taken.items():
            rows.append(
                common.Row(
                    what=f"width {width}: {name}, us a step",
                    measured=statistics.median(micros),
                    spread=(min(micros), max(micros)),
                )
            )
        targets = {pair: of[width] for pair, of in TARGETS.items()}
        targets |= {(own, name): of for own, of in OF_PEERS.items() for name in PEERS if name in makers}
        for (own, reference), target in targets.items():
            middle, low, high = common.ratios(taken, own, reference)
            rows.append(
                common.Row(
                    what=f"width {width}: {own} / {reference}",
                    measured=middle,
                    reference=1.0,
                    target=target,
                    met=None if target is None else middle <= target,
                    spread=(low, high),
                )
            )
    common.finish(rows, options)


if __name__ == "__main__":
    main()
