"""The cells of networks: pre-training, probes and fine-tuning, each by the project's own commands."""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from recipes.catalog import RECIPES
from recipes.errors import ConfigError, TrainingBroken
from recipes.settings import recipe_to_dict
from results.baselines import BASELINES, scored
from results.cells import Cell, Cells, Result
from results.tasks import CLOZE, CONTROL, DATA2VEC, NETWORKS, RANDOM, SEEDS, TASKS, Budget, Network, Task


@dataclass(frozen=True)
class Arms:
    """Where data and results are, and the commands that make cells of them."""

    cells: Cells
    data: Path
    """Folder with the data sets."""
    ds_config: Path
    tasks: Sequence[Task] = TASKS
    networks: Sequence[Network] = NETWORKS
    seeds: int = SEEDS

    def of_modalities(self, names: Collection[str]) -> "Arms":
        """Return the same with the networks and tasks of these modalities alone."""
        tasks = [one for one in self.tasks if one.modality in names]
        return replace(self, tasks=tasks, networks=[one for one in self.networks if one.modality in names])

    def encoder(self, recipe: str) -> Path:
        """Return the run dir with the final weights of a network."""
        return self.cells.kept / "encoders" / recipe

    def network(self, modality: str, arm: str) -> Network | None:
        """Return the pre-trained network of a modality and an arm; None if there is none."""
        return next((one for one in self.networks if (one.modality, one.arm) == (modality, arm)), None)

    def _own(self, modality: str) -> Network:
        """Return the network of data2vec, whose recipe and tokenizer random weights have too."""
        found = self.network(modality, DATA2VEC)
        assert found is not None
        return found

    def arms_of(self, modality: str) -> list[str]:
        """Return the arms that a modality has."""
        return [*(arm for arm in (DATA2VEC, CONTROL) if self.network(modality, arm)), RANDOM]

    def pretraining(self) -> Iterator[Cell]:
        """Yield a cell for each network."""
        for network in self.networks:
            yield Cell(f"pretrain-{network.recipe}", partial(self._pretrain, network), fingerprint(network))

    def _pretrain(self, network: Network) -> Result:
        run, encoder = self.cells.out / "runs" / network.recipe, self.encoder(network.recipe)
        words = [f"launch/pretrain_{network.modality}.py", "--recipe", network.recipe, "--data", self.place(network.data)]
        self._launch([*words, "--run-dir", run], network.settings, f"pretrain-{network.recipe}")
        shutil.rmtree(encoder, ignore_errors=True)  # of another run, whose cell was removed
        self.cells.run(["launch/convert.py", "weights", "--from", run, "--run-dir", encoder], self._log("convert"))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [later["step"] - earlier["step"] for earlier, later in zip([{"step": 0}, *rows], rows, strict=False)]
        seconds = sum(row["step_seconds"] * number for row, number in zip(rows, steps, strict=True))
        kept = ("step", "samples", "tokens", "explained_variance", "target_rank", "neighbour_correlation", "frontend_std", "eval_loss")
        return {"seconds": round(seconds, 1), "metrics": {key: rows[-1][key] for key in kept if key in rows[-1]}}

    def probes(self) -> Iterator[Cell]:
        """Yield a cell for each network and each data set on which its frozen features are probed."""
        for network in self.networks:
            for text in CLOZE if network.modality == "text" else ():
                yield self._probe_cell(network, text, ["--task", "cloze"])
            for task in self.tasks:
                if task.modality == network.modality and task.name == "classify":
                    words = ["--task", "classify", "--label-column", task.label_column]
                    yield self._probe_cell(network, task.data, words)

    def _probe_cell(self, network: Network, data: str, words: Sequence[str]) -> Cell:
        made_from = fingerprint(network, [*words, CLOZE.get(data, "")])
        return Cell(f"probe-{data}-{network.recipe}", partial(self._probe, network, data, words), made_from)

    def _probe(self, network: Network, data: str, words: Sequence[str]) -> Result:
        out = self.cells.out / "probes" / f"{network.recipe}-{data}"
        shutil.rmtree(out, ignore_errors=True)
        place = self.place(data) / CLOZE[data] if words[-1] == "cloze" else self.place(data)
        source = ["--from", self.encoder(network.recipe), "--data", place, "--out", out]
        self.cells.run(["launch/probe.py", *source, *words], self._log(f"probe-{network.recipe}-{data}"))
        (entry,) = json.loads((out / "results.json").read_text())
        kept = ("metric", "mean", "std", "layer", "random_init", "random_init_std", "majority", "num_test", "by_layer")
        found = {key: entry[key] for key in (*kept, "random_init_by_layer", "probes") if key in entry}
        shutil.rmtree(out)
        errors = {"standard_error": found.pop("std"), "random_init_error": found.pop("random_init_std")}
        return found | errors

    def choices(self) -> Iterator[Cell]:
        """Yield the cells that compare learning rates on validation data: one run for each rate of each arm and task."""
        for task, budget, arm in self._all():
            for rate in task.rates if budget.chosen_at == budget.labels else ():
                name = choice_name(task, budget, arm, rate)
                made_from = self._made_from(task, budget, arm, [f"optim.lr={rate}"])
                yield Cell(name, partial(self._choose, task, budget, arm, rate), made_from, partial(self._empty, name))

    def _all(self) -> Iterator[tuple[Task, Budget, str]]:
        for task in self.tasks:
            for budget, arm in product(task.budgets, self.arms_of(task.modality)):
                yield task, budget, arm

    def _choose(self, task: Task, budget: Budget, arm: str, rate: str) -> Result:
        return self._finetune(task, budget, arm, rate, choice_name(task, budget, arm, rate), ("data.test_splits=",))

    def finetuning(self) -> Iterator[Cell]:
        """Yield a cell for each task, number of labels and arm: all seeds with the rate that was chosen. That of data2vec has the simple
        baselines too, which read the samples that were prepared for it."""
        for task, budget, arm in self._all():
            name, made_from = finetune_name(task, budget, arm), self._made_from(task, budget, arm, [f"seeds={self.seeds}", *task.rates])
            yield Cell(name, partial(self._finetune_seeds, task, budget, arm), made_from, partial(self._empty, name))

    def _made_from(self, task: Task, budget: Budget, arm: str, more: Sequence[str]) -> str:
        """Return what a fine-tuned network depends on."""
        source = self.network(task.modality, arm) or self._own(task.modality)
        return f"{fingerprint(source)} {' '.join([*task.sets(budget, arm), *more])}"

    def _finetune_seeds(self, task: Task, budget: Budget, arm: str) -> Result:
        rate = self.best_rate(task, budget, arm)
        name = finetune_name(task, budget, arm)
        result = self._finetune(task, budget, arm, rate, name, (f"finetune.seeds={self.seeds}",))
        if arm == DATA2VEC:
            simple, prepared = BASELINES.get((task.modality, task.name), {}), self._run_dir(name) / "seed_1" / "prepared"
            result["baselines"] = {each: scored(*made, prepared, "test") for each, made in simple.items()}
        return result

    def _run_dir(self, name: str) -> Path:
        return self.cells.out / "finetune" / name

    def _empty(self, name: str) -> None:
        """Remove what takes much space in a fine-tuned run."""
        for found in [path for each in ("checkpoints", "prepared") for path in self._run_dir(name).rglob(each)]:
            shutil.rmtree(found)

    def best_rate(self, task: Task, budget: Budget, arm: str) -> str:
        """Return the learning rate with the best validation metric, at the number of labels at which it is chosen."""
        at = next(one for one in task.budgets if one.labels == budget.chosen_at)
        found = {rate: self.cells.get(choice_name(task, at, arm, rate)) for rate in task.rates}
        assert None not in found.values(), "choices() come first"
        scores = {rate: one["mean"] for rate, one in found.items() if one and one["mean"] is not None}
        if not scores:
            raise ConfigError(
                f"{task.data}, {arm}: training broke down with each of the rates {', '.join(task.rates)}; add smaller ones to TASKS"
            )
        return (min if task.is_error else max)(scores, key=lambda rate: scores[rate])

    def _finetune(self, task: Task, budget: Budget, arm: str, rate: str, name: str, extent: Sequence[str]) -> Result:
        folder, network, own = self._run_dir(name), self.network(task.modality, arm), self._own(task.modality)
        source: list[object] = ["random", "--recipe", own.recipe] if network is None else [self.encoder(network.recipe)]
        settings = [*task.sets(budget, arm), f"optim.lr={rate}", *extent]
        if network is None and task.modality == "text":
            settings.append(f"finetune.tokenizer_from={self.encoder(own.recipe)}")
        words = [f"launch/finetune_{task.modality}.py", "--from", *source, "--task", task.name, "--data", self.place(task.data)]
        code = self._launch([*words, "--run-dir", folder], settings, name, codes=(0, TrainingBroken.exit_code))
        if code:
            return {"metric": task.metric, "rate": rate, "mean": None, "standard_error": None, "remark": "training broke down"}
        entry = json.loads((folder / "results.json").read_text())[0]
        metric = entry["metrics"][task.metric]
        return {"metric": task.metric, "rate": rate, "split": entry["split"], "num_test": entry["num_test"], **metric}

    def best_baseline(self, task: Task, budget: Budget) -> Result | None:
        """Return the simple baseline with the best validation metric; None if none is finished."""
        cell = self.cells.get(finetune_name(task, budget, DATA2VEC)) or {}
        return max(cell.get("baselines", {}).values(), key=lambda one: one["validation"], default=None)

    def _launch(self, words: Sequence[object], settings: Sequence[str], name: str, codes: Sequence[int] = (0,)) -> int:
        """Run a launch script with a ds_config and settings, and return its exit code."""
        sets = [word for one in settings for word in ("--set", one)]
        return self.cells.run([*words, "--deepspeed_config", self.ds_config, *sets], self._log(name), codes)

    def _log(self, name: str) -> Path:
        return self.cells.out / "logs" / f"{name}.log"

    def check_data(self) -> None:
        """Raises: ConfigError if a data set is not there, before hours of work on others."""
        for data in {one.data for one in (*self.networks, *self.tasks)} | (CLOZE.keys() if self.network("text", DATA2VEC) else set()):
            self.place(data)

    def place(self, data: str) -> Path:
        """Return the folder of a data set. image-flowers has no test split: its validation split becomes one, so that the best checkpoint
        is chosen on a part of its training split. Raises: ConfigError if it is not there."""
        folder = self.data / data
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; --data names the folder that has {data}")
        if data != "image-flowers":
            return folder
        linked = self.cells.out / "data" / data
        linked.mkdir(parents=True, exist_ok=True)
        for split, name in (("train", "train"), ("test", "validation")):
            link, target = linked / f"{split}.parquet", (folder / f"{name}.parquet").resolve()
            if not target.is_file():
                raise ConfigError(f"{target}: no such file; --data names the folder that has {data}")
            if link.resolve() != target:  # check_data() has made it before the threads begin
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        return linked


def fingerprint(network: Network, more: Sequence[str] = ()) -> str:
    """Return a hash of the numbers of a network's recipe, its further settings, and `more`."""
    numbers = recipe_to_dict(RECIPES[network.modality][network.recipe]())
    return hashlib.sha256(json.dumps([numbers, [*network.settings, *more]], sort_keys=True).encode()).hexdigest()[:16]


def choice_name(task: Task, budget: Budget, arm: str, rate: str) -> str:
    """Return the name of the cell that tries one learning rate."""
    return f"choose-{task.data}-{budget.labels or 'all'}-{arm}-{rate}"


def finetune_name(task: Task, budget: Budget, arm: str) -> str:
    """Return the name of the cell of all seeds."""
    return f"finetune-{task.data}-{budget.labels or 'all'}-{arm}"
