/* Counts words: the slow part of the service, in C, for Python's stable ABI. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

static int is_separator(Py_UCS4 letter) {
    return letter <= ' ' || (letter < 128 && letter != '\'' && letter != '-'
        && !(letter >= '0' && letter <= '9') && !((letter | 32) >= 'a' && (letter | 32) <= 'z'));
}

/* Add one to counts[text[start:end]]; 0, or -1 with an exception set. */
static int count_one(PyObject *counts, PyObject *text, Py_ssize_t start, Py_ssize_t end) {
    PyObject *word = PyUnicode_Substring(text, start, end);
    if (word == NULL)
        return -1;
    PyObject *known = PyDict_GetItemWithError(counts, word);
    PyObject *next = NULL;
    if (known != NULL || !PyErr_Occurred())
        next = PyLong_FromLong(known == NULL ? 1 : PyLong_AsLong(known) + 1);
    int result = next == NULL ? -1 : PyDict_SetItem(counts, word, next);
    Py_XDECREF(next);
    Py_DECREF(word);
    return result;
}

static PyObject *count(PyObject *self, PyObject *text) {
    (void)self;
    if (!PyUnicode_Check(text)) {
        PyErr_SetString(PyExc_TypeError, "text expected");
        return NULL;
    }
    Py_ssize_t length = PyUnicode_GetLength(text), start = -1;
    PyObject *counts = PyDict_New();
    for (Py_ssize_t i = 0; counts != NULL && i <= length; i++) {
        int separated = i == length || is_separator(PyUnicode_ReadChar(text, i));
        if (!separated && start < 0)
            start = i;
        if (separated && start >= 0) {
            if (count_one(counts, text, start, i) < 0)
                Py_CLEAR(counts);
            start = -1;
        }
    }
    return counts;
}

static PyMethodDef methods[] = {
    {"count", count, METH_O, "count(text) -> {word: how often it occurs}"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_words", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__words(void) {
    return PyModule_Create(&module);
}
