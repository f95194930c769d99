"""Mistakes in what registers pipelines, schedules and runs."""

from mutant import Mutant

_ROOM, _TESTS = "pipelines/registrar", "tests/unit/pipelines/registrar"

REGISTRAR = (
    Mutant(
        "only the first page of a list",
        f"{_ROOM}/api.py",
        "            if not token:\n                return\n",
        "            return\n",
        f"{_TESTS}/test_client.py",
    ),
    Mutant(
        "a schedule deleted together with its run",
        f"{_ROOM}/api.py",
        '{"propagation_policy": "ORPHAN"}',
        "{}",
        f"{_TESTS}/test_reconciling.py",
    ),
    Mutant(
        "a token that is read once",
        f"{_ROOM}/access.py",
        "        _read_token,\n    )",
        "        lambda kept=_read_token(): kept,  # type: ignore[misc]\n    )",
        f"{_TESTS}/test_client.py",
    ),
    Mutant(
        "a token in the clear through any network",
        f"{_ROOM}/access.py",
        "(pod and (host.endswith(",
        "(pod or (host.endswith(",
        f"{_TESTS}/test_client.py",
    ),
    Mutant(
        "a request that must not be repeated, repeated",
        f"{_ROOM}/client.py",
        "            if not repeat:\n",
        "            if not repeat and not pauses:\n",
        f"{_TESTS}/test_client.py",
    ),
    Mutant(
        "settings of the cluster that make no other version",
        f"{_ROOM}/package.py",
        "text = canonical_json(documents)",
        "text = canonical_json(documents[:1])",
        f"{_TESTS}/test_uploading.py",
    ),
    Mutant(
        "a version that is there taken for a failure",
        f"{_ROOM}/uploading.py",
        "    if made is not None:\n",
        "    if made is not None or True:\n        assert made\n",
        f"{_TESTS}/test_uploading.py",
    ),
    Mutant(
        "a recurring run that catches up",
        f"{_ROOM}/schedules.py",
        '"no_catchup": self.schedule.no_catchup,',
        '"no_catchup": False,',
        f"{_TESTS}/test_schedules.py",
    ),
    Mutant(
        "ten runs of a schedule at once",
        f"{_ROOM}/schedules.py",
        '"max_concurrency": "1",',
        '"max_concurrency": "10",',
        f"{_TESTS}/test_reconciling.py",
    ),
    Mutant(
        "a recurring run that is made enabled",
        f"{_ROOM}/schedules.py",
        '"mode": "DISABLE",',
        '"mode": "ENABLE",',
        f"{_TESTS}/test_reconciling.py",
    ),
    Mutant(
        "macros in a schedule's values",
        f"{_ROOM}/schedules.py",
        'f"{where}.parameters", scheduled=True)',
        'f"{where}.parameters")',
        f"{_TESTS}/test_schedules.py",
    ),
    Mutant(
        "five fields of cron",
        f"{_ROOM}/cron.py",
        "    if len(fields) != len(_FIELDS):",
        "    if len(fields) == 5:\n        return text\n    if len(fields) != len(_FIELDS):",
        f"{_TESTS}/test_schedules.py",
    ),
    Mutant(
        "choices that are not checked",
        f"{_ROOM}/parameters.py",
        'if "literals" in field and value not in field["literals"]:',
        'if "literals" in field and not value:',
        f"{_TESTS}/test_schedules.py",
    ),
    Mutant(
        "a blank where a run needs a value",
        f"{_ROOM}/parameters.py",
        "    if pipeline in ALL and set",
        "    if pipeline not in ALL and set",
        f"{_TESTS}/test_uploading.py",
    ),
    Mutant(
        "the old schedule deleted before the new one is there",
        f"{_ROOM}/reconciling.py",
        "        if not right:\n            _create(",
        "        if not right:\n            for run in named:\n"
        '                api.delete_recurring_run(str(run["recurring_run_id"]))\n            _create(',
        f"{_TESTS}/test_reconciling.py",
    ),
    Mutant(
        "a schedule that is right by its mark alone",
        f"{_ROOM}/reconciling.py",
        "        and bound == (place.version.pipeline, place.version.version, place.experiment)\n",
        "",
        f"{_TESTS}/test_reconciling.py",
    ),
    Mutant(
        "a registrar that is done before it has seen its schedule alone",
        f"{_ROOM}/reconciling.py",
        "        if not others and not switched:\n",
        "        if not switched or others:\n",
        f"{_TESTS}/test_reconciling.py",
    ),
    Mutant(
        "enabled before the old one is gone",
        f"{_ROOM}/reconciling.py",
        "        for run in others:\n",
        "        if _is_enabled(stays) != wanted.schedule.enabled:\n"
        '            api.switch_recurring_run(str(stays["recurring_run_id"]), wanted.schedule.enabled)\n'
        "        for run in others:\n",
        f"{_TESTS}/test_reconciling.py",
    ),
    Mutant(
        "a run that is begun again without a look",
        f"{_ROOM}/submitting.py",
        "        if found := next((run for run in newest if",
        "        if found := next((run for run in newest if not",
        f"{_TESTS}/test_submitting.py",
    ),
    Mutant(
        "a run that works begun again",
        f"{_ROOM}/submitting.py",
        "    if state not in OVER:",
        "    if not state:",
        f"{_TESTS}/test_submitting.py",
    ),
    Mutant(
        "a run that works taken for one that ended",
        f"{_ROOM}/closing.py",
        "    if state not in OVER:\n        return None\n",
        '    state = state if state in OVER else "FAILED"\n',
        f"{_TESTS}/test_closing.py",
    ),
    Mutant(
        "a run that another Kubeflow knows, ended",
        f"{_ROOM}/closing.py",
        '        return Closed(identity, "")\n',
        '        run = {"state": "FAILED"}\n',
        f"{_TESTS}/test_closing.py",
    ),
    Mutant(
        "a terminated run that failed",
        f"{_ROOM}/closing.py",
        '"CANCELED": "KILLED"',
        '"CANCELED": "FAILED"',
        f"{_TESTS}/test_closing.py",
    ),
    Mutant(
        "schedules of others disabled",
        f"{_ROOM}/reconciling.py",
        '    mine = [run for run in there if mark_of(str(run.get("description", "")))[0] == owner]\n',
        '    mine = [run for run in there if mark_of(str(run.get("description", "")))[0]]\n',
        f"{_TESTS}/test_reconciling.py",
    ),
)
