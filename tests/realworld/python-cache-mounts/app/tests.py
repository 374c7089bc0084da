import unittest

from adder import add


class TestAdd(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2, 3), 6)
