import re
import shlex
from html.parser import HTMLParser

import pytest

from distillery.evaluation.report import SnapshotScore
from distillery.reporting.page import ClassStatistics, PageData, RunRecord, SetFacts
from distillery.reporting.render import LARGEST, comparison, gradient_chart, learning_curves, render
from distillery.tracking.history import Entry, History
from page_data import made_up_history, made_up_page, made_up_report

HOSTILE = ("<script>alert(1)</script>", '" onmouseover="alert(2)', "{{ 7 * 7 }}", "</style><b>")
VOID = {"meta", "link", "img", "br", "path", "rect", "circle"}


class Tags(HTMLParser):
    """Checks nesting, and collects what is open for trouble."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.unlabelled: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.handlers += [name for name in given if name.startswith("on")]
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "img" and not given.get("alt"):
            self.unlabelled.append(tag)
        if tag == "svg" and given.get("aria-hidden") != "true" and not given.get("aria-label"):
            self.unlabelled.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(f"{tag}/")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


PAGES = {
    "whole": made_up_page(),
    "no labels": made_up_page(report=made_up_report(("cat", "dog", "owl"), labelled=False)),
    "nothing but the report": PageData(report=made_up_report(("a", "b"))),
    "no run": made_up_page(run=RunRecord(), config={}, lineage=(), missing={"command": "Nobody knows the <command>."}),
    "no set": made_up_page(set=SetFacts(), samples=(), health=None, missing={"samples": "The set is gone.", "health": "Nobody looked."}),
    "statistics of each class": made_up_page(statistics=ClassStatistics(counts=(5_000, 299, 300), measured_on="data")),
    "statistics of many classes": made_up_page(
        tuple(f"c{number}" for number in range(200)), statistics=ClassStatistics(counts=(3,) * 150 + (400,) * 50, measured_on="set")
    ),
    "no history": made_up_page(histories={}),
    "a round without numbers": made_up_page(histories={"materialize": History(rounds=(Entry(),), after={"io": 1.0})}),
    "many classes": made_up_page(tuple(f"class {index}" for index in range(100))),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_labelled_and_self_contained(name: str) -> None:
    page = render(PAGES[name])
    tags = parse(page)
    assert tags.unlabelled == []
    assert tags.handlers == []
    assert {link.partition(":")[0] for link in tags.links if not link.startswith("#")} == {"data"}
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert len(page.encode()) < LARGEST / 2


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_the_contents_leads_somewhere(name: str) -> None:
    page = render(PAGES[name])
    assert set(re.findall(r'href="#([\w-]+)"', page)) <= set(re.findall(r' id="([\w-]+)"', page))


def test_numbers_stand_in_the_page_as_they_stand_in_the_report() -> None:
    data = made_up_page()
    page = render(data)
    for path, value in (
        ("student.accuracy.top1", data.report.student.accuracy.top1),
        ("teacher.accuracy.correct", float(data.report.teacher.accuracy.correct)),
        ("agreement.rate", data.report.agreement.rate),
        ("student.cost.parameters", float(data.report.student.cost.parameters)),
    ):
        assert f'<data value="{value}" data-path="{path}">' in page


def test_the_best_state_says_on_how_many_images_it_was_chosen() -> None:
    report = made_up_report(("cat", "dog", "owl"))
    best = SnapshotScore(name="best", agreement=0.5, correct=9, total=60, epoch=1367, chosen_on=1280)
    page = render(made_up_page(report=report.model_copy(update={"snapshots": (best,)})))
    assert "Best epoch (1,367), chosen on 1,280 images kept back" in page
    unknown = best.model_copy(update={"epoch": 0, "chosen_on": 0})
    assert "Best epoch, chosen on images kept back<" in render(made_up_page(report=report.model_copy(update={"snapshots": (unknown,)})))


def test_rounds_on_ever_more_images_are_not_compared() -> None:
    online, offline = (learning_curves(made_up_page(histories={step: made_up_history()})) for step in ("distill_online", "train_student"))
    assert "two rounds are not measured on the same ones" in online[0]["note"]
    assert "not measured on the same ones" not in offline[0]["note"]
    assert not any("at best" in chart[0]["note"] for chart in (online, offline))


def test_hostile_class_names_do_nothing() -> None:
    data = made_up_page(HOSTILE, recipe=HOSTILE[0], method=HOSTILE[1], missing={"lineage": HOSTILE[0]}, lineage=())
    page = render(data)
    tags = parse(page)
    assert tags.handlers == []
    assert "<script" not in page
    assert "<b>&lt;/style" in page or "&lt;/style&gt;&lt;b&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_what_is_missing_is_told_with_its_reason() -> None:
    assert "Nobody knows the &lt;command&gt;." in render(PAGES["no run"])
    page = render(PAGES["no set"])
    assert "The set is gone." in page
    assert "Nobody looked." in page


def test_findings_about_the_set_stand_at_the_top() -> None:
    healthy = made_up_page()
    assert healthy.health is not None
    sick = healthy.model_copy(update={"health": healthy.health.model_copy(update={"findings": ("All images are alike.",)})})
    page = render(sick)
    assert page.index("All images are alike.") < page.index('id="images"')
    assert "All images are alike." not in render(healthy)


@pytest.mark.parametrize(("features", "limit"), [("network.head", "≥ 0.02"), ("logits", "not asked")])
def test_a_check_that_was_not_asked_has_no_limit(features: str, limit: str) -> None:
    data = made_up_page()
    assert data.health is not None
    page = render(data.model_copy(update={"health": data.health.model_copy(update={"features": features, "sampled": 400})}))
    (row,) = re.findall(r"<tr>(?:(?!</tr>).)*Cosine distance within a class.*?</tr>", page)
    assert limit in row


def test_without_labels_nothing_is_called_right() -> None:
    page = render(PAGES["no labels"])
    assert "No test images were given" in page
    assert "student.accuracy" not in page
    assert "Confusion matrix" not in page


def test_a_page_of_many_classes_and_rounds_stays_below_its_bound() -> None:
    names = tuple(f"a long name of a class, number {index}" for index in range(256))
    data = made_up_page(names, report=made_up_report(names, images=5000), histories={"distill_online": made_up_history(4000)})
    assert len(render(data).encode()) < LARGEST / 2


def test_the_cost_is_split_by_part() -> None:
    data = made_up_page()
    total = data.seconds()["distill_online"]
    assert total == pytest.approx({"synthesis": 80.0, "student": 40.0, "io": 11.5, "other": 2.0})
    page = render(data)
    assert "1\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}20\N{NO-BREAK SPACE}s" in page
    assert "2\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}14\N{NO-BREAK SPACE}s" in page


def test_a_term_without_a_say_is_named() -> None:
    drawn = gradient_chart(made_up_page())
    assert drawn["weak"] == ["Cross-entropy: showing the class asked for"]
    assert "next to no say: Cross-entropy: showing the class asked for" in render(made_up_page())


def test_gains_are_the_teachers_over_the_students() -> None:
    gains = {row["path"]: row["how"] for row in comparison(made_up_report(("a", "b"))) if row["how"]}
    assert gains == {
        "cost.parameters": "9.0× less",
        "cost.weights_bytes": "9.0× less",
        "cost.flops": "9.0× less",
        "cost.latency.0.milliseconds": "9.0× faster",
    }


def test_the_command_is_what_a_shell_takes() -> None:
    parameters = {
        "run_recipe": "fast_dfkd/digits",
        "run_recipe_uri": "",
        "teacher_uri": "my teacher",
        "eval_data_uri": "",
        "run_seed": 7,
        "run_salt": "",
        "run_overrides": {"synthesis.rounds": 40.0, "student.architecture": {"name": "resnet8"}},
        "synth_size": 100,
    }
    data = made_up_page(run=RunRecord(parameters=parameters))
    words = shlex.split(data.command().replace("\\\n", ""))
    assert words == [
        *("distillery", "run", "fast_dfkd/digits", "--teacher", "my teacher", "--seed", "7", "--set", "set.size=100"),
        *("--set", "synthesis.rounds=40", "--set", "student.architecture={name: resnet8}"),
    ]
    assert made_up_page(run=RunRecord()).command() == ""


def test_a_run_with_other_settings_is_not_called_by_its_recipes_title_alone() -> None:
    recipe = {"about": {"title": "Digits at 16 px"}}
    parameters = {"run_recipe": "fast_dfkd/digits", "run_overrides": {"expects.height": 8}, "gen_rounds": 3, "synth_size": 0}
    changed, plain = (
        render(made_up_page(run=RunRecord(recipe=recipe, parameters=given)))
        for given in (parameters, {"run_recipe": "fast_dfkd/digits", "run_overrides": {}})
    )
    assert "<h1>Digits at 16 px, with other settings</h1>" in changed
    assert "<dt>other settings</dt><dd>expects.height, synthesis.rounds</dd>" in changed
    assert "<h1>Digits at 16 px</h1>" in plain
    assert "other settings" not in plain


def test_statistics_of_each_class_tell_on_how_many_images_they_were_measured() -> None:
    page = render(PAGES["statistics of each class"])
    assert "real labelled images, by whoever owns them: 5,000 of cat, 299 of dog, 300 of owl." in page
    assert "Below it: dog (299)." in page
    many = render(PAGES["statistics of many classes"])
    assert "inverted from the teacher: 3 to 400 of each of 200 classes." in many
    assert "c9 (3) and 140 more." in many
    assert "Statistics of each class" not in render(PAGES["whole"])
    said = render(made_up_page(missing={"statistics": "Its step left no record."}))
    assert "Its step left no record." in said
    assert "No class is below it." in render(made_up_page(statistics=ClassStatistics(counts=(300, 300, 301))))
