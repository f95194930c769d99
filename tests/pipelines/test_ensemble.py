"""An ensemble of generators: cut into shards by a memory budget, fanned out, gathered into one set, and known to whoever reads the run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from chains import EXPECTS, OVERRIDES, SHARED, TWO_GENERATORS, Chain
from distillery import distill, materialize
from distillery.data.reference import open_reference
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.estimate import profiling
from distillery.estimate.estimate import Counted, estimate, multiply_out
from distillery.ledger.audit import audit
from distillery.ledger.prune import Inventory
from distillery.models.bundle import VerifiedBundle, read_bundle
from distillery.placement.profiles import Placement, choose_placement
from distillery.provenance import sha256_file
from distillery.recipes.loader import load_recipe
from distillery.runtime import resolve_runtime
from distillery.step_table import PIPELINES, STEPS
from distillery.steps import materialize as draw
from distillery.steps import plan, train_student
from distillery.storage import open_store
from distillery.synthesis.share import Share
from distillery.tracking.history import Entry, History, together
from distillery.types import ImageSpec
from distillery.workbench import sharding
from distillery_kfp.pipelines.compile import compile_text
from distillery_kfp.pipelines.compiled import Compiled, iterated
from distillery_kfp.pipelines.metadata import component

PIPELINE, RECIPE = "ensemble_distillation", "ls_gdfd/digits-ensemble"
SHARES = [{"first": 0, "last": 1, "total": 3}, {"first": 1, "last": 3, "total": 3}]
TINY_SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
TINY = {**OVERRIDES[RECIPE], **SHARED, **EXPECTS}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("ensemble")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Chain(folder, RECIPE, str(folder / "store")).make()


def shards_of(chain: Chain) -> list[Path]:
    return sorted((chain.folder / chain.run / "synthesizer").iterdir())


def test_it_fans_out_over_what_the_plan_says_and_gathers_all() -> None:
    compiled = Compiled.parse(PIPELINE, compile_text(PIPELINE))  # which holds every rule of the lint
    tasks = compiled.spec["root"]["dag"]["tasks"]
    nested = compiled.spec["components"][tasks["shards"]["componentRef"]["name"]]["dag"]["tasks"]
    loop = next(task for task in nested.values() if "parameterIterator" in task)
    assert loop["iteratorPolicy"]["parallelismLimit"] == PIPELINES[PIPELINE].parallel
    assert iterated(loop) == {}, "the list crosses the border of the nested pipeline, or kfp's local runner would not find it"
    assert tasks["shards"]["inputs"]["parameters"]["sections"]["taskOutputParameter"]["outputParameterKey"] == "shards"
    inner = compiled.spec["components"][loop["componentRef"]["name"]]["dag"]
    assert [compiled.step(task) for task in inner["tasks"].values()] == ["train_generator"]
    assert set(nested["materialize"]["inputs"]["artifacts"]) == {"statistics", "synthesizers"}
    assert "run_recipe" not in compiled.spec["components"]["comp-shards"]["inputDefinitions"]["parameters"], "only what its tasks read"


def test_the_plan_cuts_it_and_every_shard_has_a_key_of_its_own(chain: Chain) -> None:
    assert [section["share"] for section in chain.sections["shards"]] == SHARES
    assert chain.sections["materialize"]["generators"] == 3
    assert len({json.dumps({**section, "share": 0}) for section in chain.sections["shards"]}) == 1
    keys = [path.name for path in Path(chain.store, "checkpoints/train_generator").iterdir()]
    assert len(keys) == 2
    documents = [json.loads((shard / "synthesizer.json").read_bytes()) for shard in shards_of(chain)]
    assert [document["share"] for document in documents] == SHARES


def test_one_set_is_drawn_from_all_and_names_them(chain: Chain) -> None:
    manifest = open_reference(chain.folder / chain.run / "set", read_bundle(chain.teacher)[1]).manifest
    hashes = tuple(sha256_file(shard / "synthesizer.json") for shard in shards_of(chain))
    assert manifest.synthesizers == hashes
    assert set(manifest.provenance.inputs) == {"teacher", "statistics", "synthesizer_1", "synthesizer_2"}
    assert all(manifest.asked), "every class is asked for"


def test_audit_page_and_prune_know_every_shard(chain: Chain) -> None:
    links = {link.name: link for link in audit(f"{chain.store}/{chain.key}")}
    assert {name for name, link in links.items() if link.state == "ok"} == {"student", "run", "set", "generator", "statistics", "teacher"}
    assert links["generator"].what == "the 3 generators that made the images, 2 shards of them, of ls_gdfd"
    assert links["generator"].where.count("checkpoints/train_generator") == 2
    page = (chain.folder / chain.run / "report.html").read_text()
    assert "The 3 that made the pictures up, each for some classes" in page
    assert "worst shard" in page
    assert "Training the generator" in page
    with chain.environment():
        found = Inventory(open_store(chain.store), chain.folder / "work").garbage()
    assert [item.place for item in found if "checkpoints" in item.place] == []


def test_a_shard_that_was_changed_breaks_the_chain(chain: Chain) -> None:
    for state in sorted(Path(chain.store, "checkpoints/train_generator").rglob("state.safetensors")):
        before = state.read_bytes()
        state.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(Exception, match="broken at the generator: .*state.safetensors"):
            audit(f"{chain.store}/{chain.key}")
        state.write_bytes(before)


def test_its_component_takes_them_all(chain: Chain, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {}
    places = [SimpleNamespace(path=str(shard)) for shard in reversed(shards_of(chain))]
    with chain.environment():
        component("materialize").python_func(
            section=chain.sections["materialize"],
            teacher_uri=str(chain.teacher),
            accelerators="0",
            synth_ood_uri="",
            statistics=SimpleNamespace(path=str(chain.folder / chain.run / "statistics")),
            dataset=SimpleNamespace(path=str(tmp_path / "set")),
            metrics=SimpleNamespace(log_metric=numbers.__setitem__),
            synthesizers=places,
        )
    assert (tmp_path / "set/manifest.json").read_bytes() == (chain.folder / chain.run / "set/manifest.json").read_bytes()


HALVES = [([0], "1 to 1 of 3"), ([0, 0, 1], "1 to 1 of 3, 1 to 1 of 3, 2 to 3 of 3"), ([1], "2 to 3 of 3")]


@pytest.mark.parametrize(("given", "held"), HALVES)
def test_half_an_ensemble_is_refused(chain: Chain, tmp_path: Path, given: list[int], held: str) -> None:
    shards = shards_of(chain)
    inputs = draw.Inputs(
        teacher_uri=str(chain.teacher),
        synthesizers=tuple(shards[number] for number in given),
        statistics=chain.folder / chain.run / "statistics",
    )
    sentence = f"^The synthesizers hold generators {held}, but the set is drawn from all 3 of one ensemble: give every share, each once.$"
    with chain.environment(), pytest.raises(CheckpointMismatchError, match=sentence):
        draw.run(chain.sections["materialize"], inputs, draw.Outputs(set=tmp_path / "set"))


def test_more_images_and_a_student_from_the_trained_ensemble(chain: Chain, tmp_path: Path) -> None:
    out, whole = chain.folder / chain.run, chain.folder / chain.run / "synthesizer"
    options = {"set": {"max_oversampling": 2.0, "batch": 8}, "precision": "float32"}
    more = materialize(chain.teacher, whole, tmp_path / "more", 12, options=options, device="cpu")
    assert len(open_reference(more.folder).manifest.synthesizers) == 2
    with pytest.raises(CheckpointMismatchError, match="hold generators 2 to 3 of 3"):
        materialize(chain.teacher, shards_of(chain)[1], tmp_path / "half", 12, options=options, device="cpu")
    inputs = train_student.Inputs(teacher_uri=str(chain.teacher), synthesizer=whole, statistics=out / "statistics")
    with chain.environment():
        train_student.run(chain.sections["student"], inputs, train_student.Outputs(student=tmp_path / "student"))
    origin = json.loads((tmp_path / "student/bundle.json").read_bytes())["provenance"]
    assert {"synthesizer_1", "synthesizer_2"} <= set(origin["inputs"])


def test_in_this_process_it_ends_as_in_the_pipeline(chain: Chain, tmp_path: Path) -> None:
    done = distill(chain.teacher, RECIPE, tmp_path / "out", overrides=TINY, device="cpu")
    steps = [[step] if step != "train_generator" else [f"{step}/1", f"{step}/2"] for step in PIPELINES[PIPELINE].steps[1:-1]]
    assert list(done.steps) == sum(steps, [])
    assert read_bundle(done.student)[1] == read_bundle(chain.student)[1]


def test_it_costs_what_all_shards_cost(chain: Chain) -> None:
    given = {"run_recipe": RECIPE, "run_overrides": TINY, "teacher_uri": str(chain.teacher)}
    found = estimate(PIPELINE, given, "cpu", 1)
    assert found.sharding is not None
    assert [len(share) for share in found.sharding.shards] == [1, 2]
    assert found.sharding.sentence().startswith("3 generators in 2 shards of at most 2 each: about ")
    synthesis = next(part for part in found.parts if part.name == "synthesis")
    assert "the largest shard" in synthesis.how
    whole = profiling.profile_run(found.recipe, VerifiedBundle(chain.teacher).classifier, "t" * 64, resolve_runtime("cpu", "float32", 1))
    costs = [multiply_out(found.recipe, whole, TINY_SPEC, 3, Counted(), 1, "cpu", sharding=cut) for cut in (None, found.sharding)]
    seconds = [next(part.seconds[0] for part in cost.parts if part.name == "synthesis") for cost in costs]
    assert seconds[1] == pytest.approx(1.5 * seconds[0]), "three generators, of which the largest shard holds two"


def cut_of(chain: Chain, placement: Placement | None = None, **values: Any) -> sharding.Sharding:
    recipe = load_recipe(RECIPE, {**TINY, **{f"synthesis.{name}": value for name, value in values.items()}})
    found = sharding.cut_ensemble(recipe, VerifiedBundle(chain.teacher), placement, sharding.torch.device("cpu"))
    assert found is not None
    return found


def test_shards_are_as_few_as_fit_and_of_about_one_size(chain: Chain) -> None:
    whole = cut_of(chain, shard_memory_gib=1.0)
    assert whole.shards == (Share(0, 3, 3),)
    assert whole.needed == whole.shared + whole.memory.of(3)
    for most, sizes in {1: [1, 1, 1], 2: [1, 2], 3: [3]}.items():
        budget = (whole.shared + whole.memory.of(most) + 1) / sharding.GIB
        assert [len(share) for share in cut_of(chain, shard_memory_gib=budget).shards] == sizes
    assert [len(share) for share in cut_of(chain, generators=2, shard_memory_gib=budget).shards] == [2]


def test_without_a_budget_it_is_what_the_machine_has(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "60% of the memory of cpu here" in cut_of(chain, shard_memory_gib=0).sentence()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    placed = choose_placement({"run_profile": "cpu", "k8s_overrides": {"large.memory_limit": "10Gi"}})
    found = cut_of(chain, placed, shard_memory_gib=0)
    assert (found.budget, found.origin) == (6 * sharding.GIB, "60% of large.memory_limit of the profile cpu")
    found = cut_of(chain, choose_placement({"run_profile": "nvidia"}), shard_memory_gib=0)
    assert found.budget == sharding.UNSEEN_ACCELERATOR
    assert "the plan sees none" in found.origin


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"generators": 4}, r"^synthesis.generators = 4 is not allowed: each generator needs a class of its own, and the teacher has 3; "),
        (
            {"shard_memory_gib": 0.0001},
            r"^One generator takes about \S+ GiB with the teacher, more than a shard may: 0.0001 GiB, synthesis",
        ),
    ],
)
def test_the_plan_refuses_what_cannot_be_cut(chain: Chain, values: dict[str, Any], sentence: str) -> None:
    overrides = {**TINY, **{f"synthesis.{name}": value for name, value in values.items()}}
    with chain.environment(), pytest.raises(ConfigError, match=sentence):
        plan.run(PIPELINE, {"run_recipe": RECIPE, "run_overrides": overrides, "teacher_uri": str(chain.teacher)})


def test_shards_on_the_page_are_their_mean_and_the_worst() -> None:
    rounds = [[{"synthesis/label": value, "gradient/label": 1.0} for value in values] for values in ((4.0, 2.0), (8.0, 1.0), (3.0,))]
    parts = [History(rounds=tuple(Entry(numbers=row, seconds={"synthesis": 2.0}) for row in rows), after={"io": 1.0}) for rows in rounds]
    found = together(parts)
    assert found.curve("synthesis/label") == [(1.0, 5.0), (2.0, 1.5)]
    assert found.curve("worst/synthesis/label") == [(1.0, 8.0), (2.0, 2.0)]
    assert found.curve("worst/gradient/label") == []
    assert found.seconds() == {"synthesis": 10.0, "io": 3.0}
    assert together(parts[:1]) is parts[0]


def test_the_tiny_budget_is_of_two_generators(chain: Chain) -> None:
    found = cut_of(chain, shard_memory_gib=TWO_GENERATORS)
    assert found.shared + found.memory.of(2) <= found.budget < found.shared + found.memory.of(3)
    assert STEPS["train_generator"].planned(chain.sections) == tuple(chain.sections["shards"])


def test_the_recipe_is_a_generator_a_class() -> None:
    assert yaml.safe_load(compile_text(PIPELINE).split("---")[0])["root"]["inputDefinitions"]["parameters"]["run_recipe"]["literals"]
    assert load_recipe(RECIPE).generators(10) == 10
