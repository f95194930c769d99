"""`make mutants`: break a copy of the tree one line at a time, and see a named, fast test fail for each.

Exits 1 where a mutant survives, a patch no longer applies, or the tests fail on the unbroken copy.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutant import Mutant
from of_generators import GENERATORS
from of_inversion import INVERSION
from of_places import PLACES
from of_registrar import REGISTRAR
from of_students import STUDENTS

ROOT = Path(__file__).parents[2]
COPIED = ("src", "components", "pipelines", "images", "tests", "docs")


MUTANTS: tuple[Mutant, ...] = (
    *STUDENTS,
    *GENERATORS,
    *INVERSION,
    *REGISTRAR,
    *PLACES,
    Mutant(
        "a pipeline found by its target whatever the number of generators",
        "src/distillery/step_table.py",
        " and bool(row.fanned) == (generators > 1):",
        ":",
        "tests/unit/test_step_table.py",
    ),
    Mutant(
        "the first step that can write an artifact taken for the one that did",
        "src/distillery/ledger/page.py",
        'if checkpoints.store.list("")), works[0])',
        "if checkpoints), works[0])",
        "tests/unit/ledger/test_page.py",
    ),
    Mutant(
        "a component that keeps its promise of accelerators to itself",
        "components/student/distill_online/component.py",
        ", accelerators=accelerators, **given",
        ", **given",
        "tests/unit/workbench/test_accelerators.py",
    ),
    Mutant(
        "sign flip in the adversarial term",
        "src/distillery/losses/adversarial.py",
        "return -(kl_per_sample(",
        "return (kl_per_sample(",
        "tests/equivalence/test_losses.py",
    ),
    Mutant(
        "the mask of the adversarial term dropped",
        "src/distillery/losses/adversarial.py",
        " * agree).mean()",
        ").mean()",
        "tests/equivalence/test_losses.py",
    ),
    Mutant(
        "sign flip in Reptile",
        "src/distillery/optim/meta.py",
        "(before.detach() - after.detach())",
        "(after.detach() - before.detach())",
        "tests/equivalence/test_meta.py",
    ),
    Mutant(
        "a batch moment computed with the wrong variance",
        "src/distillery/losses/moments.py",
        "torch.batch_norm_update_stats(features, unread[0], unread[1], 0.0)",
        "torch.batch_norm_update_stats(features, unread[0], unread[1], 1.0)[0], unread[1]",
        "tests/equivalence/test_losses.py",
    ),
    Mutant(
        "one norm over all groups",
        "src/distillery/losses/moments.py",
        "torch.linalg.vector_norm(difference, dim=-1)",
        "torch.linalg.vector_norm(difference)",
        "tests/equivalence/test_grouped_moments.py",
    ),
    Mutant(
        "one norm of neighbours' differences over all groups",
        "src/distillery/losses/priors.py",
        "    if groups == 1:\n        norms",
        "    if groups:\n        norms",
        "tests/equivalence/test_losses.py",
    ),
    Mutant(
        "an image counted for one class of a map only",
        "src/distillery/data/shards.py",
        "scatter_(1, answers.flatten(1).long(), True)",
        "scatter_(1, answers.flatten(1)[:, :1].long(), True)",
        "tests/unit/engine/test_labelling.py",
    ),
    Mutant(
        "classes asked for that are not missing",
        "src/distillery/engine/materialize.py",
        "repeat_interleave(self._quota - self._kept)",
        "repeat_interleave(self._quota)",
        "tests/unit/engine/test_materialize_images.py",
    ),
    Mutant(
        "a received file that nobody compares with its hash",
        "src/distillery/storage/local.py",
        "    if digest.hexdigest() != sha256:",
        "    if not digest.hexdigest():",
        "tests/unit/storage/test_files.py",
    ),
    Mutant(
        "a recorded moment computed with the wrong variance",
        "src/distillery/statistics/extract.py",
        "freedom = self.count - 1",
        "freedom = self.count",
        "tests/unit/statistics/test_extract.py",
    ),
    Mutant(
        "a camera's picture left as it lies in its file",
        "src/distillery/data/decoding.py",
        "turn = _UPRIGHT.get(_orientation(picture))",
        "turn = _UPRIGHT.get(1)",
        "tests/unit/data/test_decoding.py",
    ),
    Mutant(
        "a pickle of CIFAR that may name anything of numpy",
        "src/distillery/data/cifar.py",
        "if (module, name) not in stand_ins:",
        'if module.startswith("numpy"):\n            return super().find_class(module, name)  # type: ignore[no-any-return]\n'
        "        if (module, name) not in stand_ins:",
        "tests/unit/data/test_cifar.py",
    ),
    Mutant(
        "a teacher left in train mode",
        "src/distillery/types.py",
        "return self.requires_grad_(False).eval()",
        "return self.requires_grad_(False)",
        "tests/unit/test_types.py",
    ),
    Mutant(
        "a teacher left in train mode by the extraction",
        "src/distillery/statistics/modes.py",
        "        module.eval()",
        "        module.train()",
        "tests/unit/statistics/test_extract.py",
    ),
    Mutant(
        "gradients that stop at the clamp",
        "src/distillery/numerics.py",
        "    clamped: Tensor = _ClampThrough.apply(images)",
        "    clamped: Tensor = images.clamp(0, 1)",
        "tests/equivalence/test_range.py",
    ),
    Mutant(
        "the adversarial term a round late",
        "src/distillery/methods/fast_dfkd.py",
        "self._rounds >= config.warmup",
        "self._rounds > config.warmup",
        "tests/equivalence/test_fast_dfkd.py",
    ),
    Mutant(
        "an idle value of a recipe let through",
        "src/distillery/recipes/effects.py",
        "idle = kind not in value.serves or",
        "idle = kind in value.serves or",
        "tests/unit/recipes/test_effects.py",
    ),
    Mutant(
        "a need that no weight lifts is taken for lifted",
        "src/distillery/catalog.py",
        "if not weight or getattr(config, weight))",
        "if weight and getattr(config, weight))",
        "tests/unit/methods/test_catalog.py",
    ),
    Mutant(
        "a tap left behind",
        "src/distillery/statistics/taps.py",
        '        del module.__dict__["forward"]',
        "        pass",
        "tests/contract/test_methods.py",
    ),
    Mutant(
        "epochs compared on the images of their own time",
        "src/distillery/engine/selection.py",
        "judged = [self._brought_up(kept, student, score.images, anew=True) for kept in contenders.values()]",
        "judged = list(contenders.values())",
        "tests/unit/engine/test_selection.py",
    ),
    Mutant(
        "a layer counted once though it is visited twice",
        "src/distillery/statistics/layers.py",
        "                    visits += taps.visits(path)",
        "                    visits.append(path)",
        "tests/unit/statistics/test_layers.py",
    ),
    Mutant(
        "a manifest published before its shards are complete",
        "src/distillery/data/shards.py",
        "if not has_shard(store, entry):",
        "if False:",
        "tests/unit/data/test_store.py",
    ),
    Mutant(
        "a document's seal believed",
        "src/distillery/documents.py",
        "raise damaged(where, advice)",
        "pass",
        "tests/unit/test_documents.py",
    ),
    Mutant(
        "the last result of a key wins",
        "src/distillery/engine/checkpoint.py",
        "self.store.create(_RESULT,",
        "self.store.write(_RESULT,",
        "tests/unit/engine/test_checkpoint.py",
    ),
    Mutant(
        "a comment's neighbour, the docstring, counts as code",
        "src/distillery/step_version.py",
        "    _strip(tree)",
        "    pass",
        "tests/unit/test_step_version.py",
    ),
    Mutant(
        "a shard published before its manifest is complete",
        "src/distillery/data/store.py",
        "        self._entries.append(entry)\n        return entry\n",
        "        self._entries.append(entry)\n        self.store.write(MANIFEST, self.manifest())\n        return entry\n",
        "tests/unit/data/test_store.py",
    ),
    Mutant(
        "a sample that prefers early images",
        "src/distillery/engine/sampled.py",
        "torch.arange(first + 1, self.seen + 1, dtype=torch.float64)",
        "torch.arange(first + 1, self.seen + 1, dtype=torch.float64) * 1.5",
        "tests/unit/engine/test_sampled.py",
    ),
    Mutant(
        "the turns of a round counted as one",
        "src/distillery/engine/terms.py",
        "        self._count += 1\n",
        "        self._count = 1\n",
        "tests/unit/engine/test_terms.py",
    ),
    Mutant(
        "contiguous images whose strides say channels-last",
        "src/distillery/types.py",
        "return normalised.clone(memory_format=torch.contiguous_format)",
        "return normalised.contiguous()",
        "tests/unit/models/test_trial.py",
    ),
    Mutant(
        "a student that is never tried in train mode",
        "src/distillery/models/trial.py",
        "        if train:\n            _train(classifier, name, images)\n    except ConfigError as error:\n        return error",
        "    except ConfigError as error:\n        return error",
        "tests/unit/models/test_trial.py",
    ),
    Mutant(
        "a module imported because a bundle names it",
        "src/distillery/models/allowance.py",
        "if not {path, name} & set(_allowed()):",
        "if not name:",
        "tests/unit/models/test_allowance.py",
    ),
    Mutant(
        "an average of weights taken before the weights",
        "src/distillery/models/weight_sets.py",
        "plain = not _AVERAGED &",
        "plain = _AVERAGED &",
        "tests/unit/models/test_checkpoints.py",
    ),
    Mutant(
        "a promised accelerator that is not looked for",
        "src/distillery/workbench/accelerators.py",
        "if not torch.cuda.is_available():",
        "if False:",
        "tests/unit/workbench/test_accelerators.py",
    ),
    Mutant(
        "retries whose window ends with the last but one",
        "pipelines/resources.py",
        "return (retries + 1) * timeout_seconds",
        "return retries * timeout_seconds",
        "tests/pipelines/test_cluster_rules.py",
    ),
    Mutant(
        "an output read before the layer's own hooks",
        "src/distillery/statistics/taps.py",
        "lambda _module, _args, result: taps.correct(path, _first_tensor(result))",
        "lambda _module, _args, result: None",
        "tests/unit/statistics/test_taps.py",
    ),
    Mutant(
        "an objective's need that its weight does not lift",
        "src/distillery/catalog.py",
        "if not weight or getattr(config, weight))",
        "if not weight)",
        "tests/unit/students/test_check.py",
    ),
    Mutant(
        "a regressor that the optimizer does not know",
        "src/distillery/engine/fit.py",
        "[*select_trained(self.student, config.trains), *self._modules.parameters()]",
        "[*select_trained(self.student, config.trains)]",
        "tests/unit/engine/test_fit_objectives.py",
    ),
    Mutant(
        "gradients clipped after the step",
        "src/distillery/engine/fit.py",
        "        if stage.clip:\n            nn.utils.clip_grad_norm_(self._trained, stage.clip)\n        self._optimizer.step()\n",
        "        self._optimizer.step()\n        if stage.clip:\n            nn.utils.clip_grad_norm_(self._trained, stage.clip)\n",
        "tests/equivalence/test_students.py",
    ),
    Mutant(
        "a schedule by steps that falls by epochs",
        "src/distillery/engine/fit.py",
        'if stage.schedule.by == "epoch":',
        "if True:",
        "tests/unit/engine/test_fit.py",
    ),
    Mutant(
        "another objective with the old one's settings",
        "src/distillery/recipes/loader.py",
        "= {} if renamed else dict(present or {})",
        "= dict(present or {})",
        "tests/unit/recipes/test_loader.py",
    ),
    Mutant(
        "a step that takes a notebook's signals",
        "src/distillery/workbench/bench.py",
        "with nullcontext() if watcher() else _own_process(), guarded",
        "with _own_process(), guarded",
        "tests/unit/api/test_distilling.py",
    ),
)


def main() -> int:
    """Try every mutant; the exit code."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        copy = Path(place)
        copy_tree(copy)
        named = sorted({mutant.tests for mutant in MUTANTS})
        code, output = run_tests(copy, named)
        if code:
            print(f"The tests fail on the unbroken tree, so they prove nothing:\n{output}")
            return 1
        survivors = [mutant.name for mutant in MUTANTS if not is_caught(copy, mutant)]
    print(f"{len(MUTANTS) - len(survivors)} of {len(MUTANTS)} mutants caught" + "".join(f"\nNOT caught: {name}" for name in survivors))
    return 1 if survivors else 0


def copy_tree(copy: Path) -> None:
    """Sources, tests and their configuration; and `distillery_kfp`, which an installation would map to the original's folders."""
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", ".gitignore"):  # the tests look at what git lets be
        shutil.copy(ROOT / name, copy)
    platform = copy / "platform" / "distillery_kfp"
    platform.mkdir(parents=True)
    for name in ("components", "images", "pipelines"):
        (platform / name).symlink_to(copy / name)


def is_caught(copy: Path, mutant: Mutant) -> bool:
    """Apply one patch, run its tests, take it back; say what noticed."""
    target = copy / mutant.file
    original = target.read_text()
    if original.count(mutant.old) != 1:
        print(f"DOES NOT APPLY  {mutant.name}: {mutant.old!r} stands {original.count(mutant.old)} times in {mutant.file}")
        return False
    target.write_text(original.replace(mutant.old, mutant.new))
    code, output = run_tests(copy, [mutant.tests])
    target.write_text(original)
    failed = re.findall(r"^FAILED (\S+)", output, flags=re.MULTILINE)
    caught = code == 1 and bool(failed)
    print(f"{'caught  ' if caught else 'SURVIVED'}  {mutant.name}: {failed[0] if failed else output[-500:]}")
    return caught


def run_tests(copy: Path, paths: list[str]) -> tuple[int, str]:
    """Run tests against the copy's own sources, never the installed ones."""
    path = os.pathsep.join([str(copy / "src"), str(copy / "platform")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    check = (
        "import distillery, distillery_kfp.pipelines as pipelines, pathlib, sys; "
        "sys.exit(not all(pathlib.Path(part.__file__).is_relative_to(sys.argv[1]) for part in (distillery, pipelines)))"
    )
    subprocess.run([sys.executable, "-c", check, str(copy)], cwd=copy, env=environment, check=True)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())
