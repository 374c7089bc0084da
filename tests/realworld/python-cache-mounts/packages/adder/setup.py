from setuptools import setup

setup(name="adder", version="0.2", py_modules=["adder"])
