"""Which evaluation of a run is called the best."""

from dino_jax.run.best import Best


def test_the_best_is_the_newest_of_the_highest_accuracies_of_the_teacher():
    best = Best()
    seen = [
        best.add(step, {"loss": 1.0, "knn20/student": 99.0, "knn10/teacher": value})
        for step, value in [(0, 90.0), (10, 50.0), (20, 70.0), (30, 70.0), (40, 60.0)]
    ]
    assert seen == [False, True, True, True, False]
    assert (best.step, best.metric, best.value) == (30, "knn10/teacher", 70.0)


def test_without_labels_the_effective_rank_decides():
    best = Best()
    for step, rank in [(10, 5.0), (20, 9.5), (30, 7.0)]:
        best.add(step, {"proxy/agreement": 0.9, "proxy/rankme": rank})
    assert best.describe([20, 30]) == "best teacher: step 20, proxy/rankme 9.5"


def test_views_that_find_their_image_decide_over_the_effective_rank():
    best = Best()
    assert best.add(10, {"proxy/rankme": 9.0})
    assert best.add(20, {"proxy/rankme": 5.0, "proxy/retrieval": 31.0})
    assert not best.add(30, {"proxy/rankme": 50.0, "proxy/retrieval": 30.0})
    assert best.describe([20]) == "best teacher: step 20, proxy/retrieval 31 %"


def test_lines_without_an_evaluation_and_numbers_that_are_not_finite_do_not_count():
    best = Best()
    assert not best.add(10, {"loss": 1.0, "knn10/raw_pixels": 97.0, "knn10/frozen_teacher": 98.0})
    assert not best.add(20, {"knn10/teacher": None})
    assert not best.add(30, {"proxy/rankme": float("nan")})
    assert best.describe([]) == "no evaluation, so no advice on which checkpoint to use"


def test_an_accuracy_decides_also_when_the_effective_rank_is_measured_more_often():
    best = Best()
    assert best.add(10, {"proxy/rankme": 120.0})
    assert best.add(20, {"proxy/rankme": 110.0, "knn10/teacher": 60.0})
    assert not best.add(30, {"proxy/rankme": 130.0})
    assert (best.step, best.metric, best.value) == (20, "knn10/teacher", 60.0)


def test_accuracies_of_a_second_evaluation_do_not_count():
    assert not Best().add(10, {"knn_flowers/knn10/teacher": 90.0})


def test_another_role_can_stand_for_the_run():
    best = Best(role="student")
    best.add(10, {"knn10/teacher": 99.0, "knn10/student": 55.0})
    assert best.describe([10]) == "best student: step 10, knn10/student 55 %"


def test_a_best_step_without_a_checkpoint_is_named_as_such():
    best = Best()
    best.add(10, {"knn10/student": 55.25})
    wanted = "best teacher: step 10, knn10/student 55.2 %, but there is no checkpoint of it"
    assert best.describe([20]) == wanted


def test_a_measured_gain_decides_before_accuracy_and_rankme():
    best = Best()
    best.add(10, {"knn10/teacher": 90.0, "proxy/rankme": 5.0})
    best.add(20, {"knn10/teacher": 50.0, "worth/teacher": -0.1})
    assert (best.step, best.metric) == (20, "worth/teacher")


def test_evaluations_that_are_no_better_are_counted():
    best, counts = Best(), []
    for step, gain in enumerate((0.0, 0.1, 0.1, 0.05, 0.2, 0.2), start=1):
        best.add(step, {"worth/teacher": gain})
        best.add(step, {"loss": 1.0})
        counts.append(best.since)
    assert counts == [0, 0, 1, 2, 0, 1]
    assert (best.step, best.reached) == (6, 5)
