"""The section `start`: which of its values restart what follows the student, and what is printed about it."""

from recipes.start_config import StartConfig


def test_the_default_begins_with_random_weights_and_a_restarted_follower() -> None:
    start = StartConfig()
    assert (start.start_from, start.required, start.is_restarted) == (None, False, True)
    assert start.follower == StartConfig.RESTARTED


def test_stored_reads_what_follows_the_student_from_the_checkpoint() -> None:
    start = StartConfig(teacher="stored")
    assert not start.is_restarted
    assert start.follower == "start.teacher=stored" and start.in_words != StartConfig().in_words
