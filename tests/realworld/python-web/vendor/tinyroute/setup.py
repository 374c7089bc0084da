from setuptools import setup

setup(name="tinyroute", version="1.4.0", py_modules=["tinyroute"])
