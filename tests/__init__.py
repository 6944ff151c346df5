import pytest

pytest.register_assert_rewrite("tests.helpers")  # before any of them is imported
