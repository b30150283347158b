"""Triton's front end (3.6) without what it does for nothing, or anew for every operation: the same code, sooner.

It knows nothing of our kernels. docs/log.md has what it brings.
"""

import ast
import functools
import inspect
from typing import Any

import pytest
import quick_types
import triton.language as tl
from triton.compiler import code_generator
from triton.compiler.code_generator import CodeGenerator, CompilationError
from triton.runtime.jit import JITFunction

core = tl.core


def install(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone."""
    patch.setattr(CodeGenerator, "visit", _visit)
    patch.setattr(code_generator, "inspect", _Inspect())
    patch.setattr(JITFunction, "parse", _parse)
    quick_types.install(patch)
    patch.setattr(core.tuple_type, "__init__", _fill_tuple_type)
    patch.setattr(core.tuple_type, "name", property(_name_of_tuple_type), raising=False)


def _visit(self: Any, node: ast.AST | None) -> Any:
    """Triton sets filters of warnings for every node, of what Python 3.6 had. Errors it shows where they are made."""
    if node is None:
        return None
    before, place = self.cur_node, self.builder.get_loc()
    self.cur_node = node
    if hasattr(node, "lineno"):
        here = self.builder.create_loc(self.file_name, self.begin_line + node.lineno, node.col_offset)
        if self.name_loc_as_prefix is not None:
            here = self.builder.create_name_loc(self.name_loc_as_prefix, here)
        self.builder.set_loc(here)
        place = self.builder.get_loc()
    try:
        found = ast.NodeVisitor.visit(self, node)
    except CompilationError:
        raise
    except Exception as error:
        raise CompilationError(self.jit_fn.src, self.cur_node, repr(error)) from None
    if place:
        self.cur_node = before
        self.builder.set_loc(place)
    return found


class _Inspect:
    """Python's `inspect`, which finds the signature of a function of the language once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    signature = staticmethod(functools.cache(inspect.signature))


def _parse(self: Any) -> ast.Module:
    """A device function is parsed once, not for each of its specializations."""
    return _tree(self.src)


_tree = functools.cache(ast.parse)


def _fill_tuple_type(self: Any, types: Any, fields: Any = None) -> None:
    self.types, self.fields = types, fields or [""] * len(types)


def _name_of_tuple_type(self: Any) -> str:
    """Of every number in it: made where it is asked for."""
    return "[" + ",".join(f"{field}:{type}" for field, type in zip(self.fields, self.types, strict=False)) + "]"
