"""How far a record has come, seen before its study is opened."""

from pathlib import Path

from nas.trials.evaluate import Outcome
from nas.trials.progress import ended_slots, measured_keys
from nas.trials.retries import MAX_LOST
from nas.trials.study import Study
from tests.searching import ask, drive, fixed_study, proposals


def _agrees(database: Path, study: Study) -> bool:
    return ended_slots(database, "study") == {result.job.slot for result in study.results}


def test_slots_end_as_the_study_itself_has_it(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    assert ended_slots(database, "study") == set()
    assert measured_keys(database) == set()
    assert not database.exists()
    items = proposals(6)
    drive(fixed_study(database, items), stop=2)  # killed in the third
    assert ended_slots(database, "study") == {0, 1}
    study = fixed_study(database, items)
    assert _agrees(database, study)
    study.tell(ask(study), Outcome(reason="oom"))  # tried again
    study.tell(ask(study), Outcome(reason="nan"))  # for good
    assert _agrees(database, study)
    study.interrupt()
    assert _agrees(database, study)
    for _ in range(2 * MAX_LOST + 2):
        study.tell(ask(study), Outcome(reason="worker-lost"))
        assert _agrees(database, study)
    drive(fixed_study(database, items))
    assert ended_slots(database, "study") == set(range(6))
    assert measured_keys(database) <= {item.key for item in items}
    assert ended_slots(database, "another") == set()
