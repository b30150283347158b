"""A space offers only valid configurations, says what is wrong with the others, and writes each in one way."""

import json
import random

import pytest

from kernel_templates import formats, registry
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu import machine
from kernel_templates.device import Device
from kernel_templates.ffn.problem import Ffn
from kernel_templates.head.problem import Head
from kernel_templates.matvec.problem import Matvec
from kernel_templates.moe.problem import Moe
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Constraint, Parameter, Space

PROBLEMS: list[Problem] = [
    Matvec(576, 576, "Q4_1"),
    Matvec(40, 96, "F16"),
    Matvec(512, 256, "Q6_K"),
    Head(49152, 576, "Q8_0"),
    Ffn(576, 1536, "Q4_1", "Q4_1", "Q8_0"),
    Ffn(64, 96, "F32", "Q4_0", "BF16"),
    Attention(9, 3, 64, 512),
    NormQkvRope(576, 9, 3, 64, 64, 0, "Q4_1", "Q4_1", "Q8_0"),
    NormQkvRope(1024, 16, 8, 128, 128, 1, "Q4_0", "Q4_0", "Q4_0"),
]
SMALL = Space(
    (Parameter("lanes", (16, 32, 64), 32, "rows"), Parameter("path", ("a", "b"), "a", "instructions")),
    (Constraint("b is narrow", "b has only 32 lanes", lambda c: c["path"] == "a" or c["lanes"] <= 32),),
)


def test_configs_are_the_grid_without_what_a_constraint_refuses():
    found = [(c["lanes"], c["path"]) for c in SMALL.configs()]
    assert found == [(16, "a"), (16, "b"), (32, "a"), (32, "b"), (64, "a")]
    assert SMALL.broken({"lanes": 64, "path": "b"}).reason == "b has only 32 lanes"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"lanes": 48, "path": "a"}, r"lanes must be one of \(16, 32, 64\), not 48"),
        ({"path": "a"}, "lanes must be one of .*, not None"),
        ({"lanes": 16, "path": "a", "warps": 4}, "no parameter 'warps'"),
    ],
)
def test_a_value_that_is_not_offered_is_named(config, reason):
    broken = SMALL.broken(config)
    assert broken is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(broken.reason)


def test_an_invalid_default_is_refused_at_once():
    with pytest.raises(ValueError, match="b is narrow"):
        Space((Parameter("lanes", (16, 64), 64, ""), Parameter("path", ("a", "b"), "b", "")), SMALL.constraints)


def test_a_config_is_one_thing_however_it_is_written():
    one, other = Config({"lanes": 16, "path": "a"}), Config({"path": "a", "lanes": 16})
    assert one == other == {"lanes": 16, "path": "a"}
    assert hash(one) == hash(other)
    assert one.key == other.key == '{"lanes":16,"path":"a"}'
    assert one != Config({"lanes": 32, "path": "a"})
    assert Config(json.loads(one.key)) == one


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.key)
def test_every_operation_offers_valid_distinct_configs(problem):
    features = machine.features()
    space = registry.cpu_space(problem, features)
    configs = space.configs()
    assert space.broken(space.default) is None
    assert space.default in configs
    assert len({c.key for c in configs}) == len(configs) > 1
    for config in random.Random(1).sample(configs, min(100, len(configs))):
        assert space.broken(config) is None
    assert all(p.default in p.values and p.meaning and len(set(p.values)) == len(p.values) for p in space.parameters)
    assert all(c.reason for c in space.constraints)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.key)
def test_the_default_has_the_best_dot_product_of_the_processor(problem):
    known = {"": "generic", "sse2": "madd", "sse2 avx512vnni": "vnni"}
    integers = any(formats.get(matrix.format).quantized for matrix in problem.matrices)
    for features, best in known.items():
        default = registry.cpu_space(problem, frozenset(features.split())).default
        assert default.get("path", best) == (best if integers or "path" not in default else "generic")


def test_an_operation_without_a_cpu_template_says_so():
    layer = registry.get("layer").problem
    for ask in (lambda: registry.cpu("layer"), lambda: registry.cpu_space(layer, frozenset())):
        with pytest.raises(NotImplementedError, match="layer has no template for the cpu"):
            ask()


def test_a_machine_without_vector_instructions_is_offered_none():
    paths = {c["path"] for c in registry.cpu_space(Matvec(64, 64, "Q4_0"), frozenset()).configs()}
    assert paths == {"generic"}


def test_a_tile_never_ends_in_the_rows_of_another_format():
    mixed = NormQkvRope(64, 3, 1, 48, 48, 0, "Q4_0", "Q4_0", "Q8_0")  # V begins at row 192, K at 144
    lanes = {c["lanes"] for c in registry.cpu_space(mixed, machine.features()).configs()}
    assert lanes and all(192 % n == 0 for n in lanes)


@pytest.mark.parametrize(
    ("name", "value"), [("tile", 32.0), ("tile", True), ("tile", "32"), ("fast", 1), ("tile", [32])]
)
def test_a_value_of_another_type_is_another_value(name, value):
    space = Space((Parameter("tile", (32, 1), 32, ""), Parameter("fast", (True, False), True, "")))
    assert space.broken({"tile": 32, "fast": True}) is None
    broken = space.broken({"tile": 32, "fast": True, name: value})
    assert broken is not None and broken.name == name
    with pytest.raises(ValueError):
        space.fixed({name: value})


def test_a_configuration_from_before_a_parameter_means_what_was_built_then():
    space = Space((Parameter("tile", (32, 1), 32, ""), Parameter("fast", (False, True), True, "", formerly=False)))
    assert space.completed({"tile": 1}) == {"tile": 1, "fast": False}
    assert space.completed({"tile": 1, "fast": True}) == {"tile": 1, "fast": True}
    assert space.broken(space.completed({})) is not None, "what was there at first has to be said"


def test_a_mixture_from_before_readers_chose_has_a_kernel_that_chooses():
    mixture = Moe(64, 32, 5, 1, "F32", "Q4_0", "Q8_0", "Q4_1")
    space = registry.cuda_space(mixture, Device("cuda", "any", "9.0", 132, 80 << 30))
    old = {name: value for name, value in space.default.items() if name != "choose"}
    assert space.completed(old) == {**old, "choose": "kernel"} and space.broken(space.completed(old)) is None
