"""The budgets and rules of the house, measured in the source itself (CONTRIBUTING.md, "Budgets").

Each rule is a function from source to a list of complaints. It is held against src/eaves, and
against a snippet that breaks it: a rule that nothing can break would prove nothing.
"""

import ast
import graphlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

FUNCTION_LINES = 40  # from `def` to the end, without decorators and docstring
CLASS_LINES = 250  # from `class` to the end
FILE_LINES = 500
PARAMETERS = 7  # without self or cls
DEPTH = 1  # ancestors within eaves

# Deeper families, by their root.
DEEPER = {
    "eaves.errors.EavesError": 2,  # a CutError is a ConfigError: both are the caller's mistake
    "eaves.core.roles.Learner": 2,  # edge and cloud learners share how their state is handled
}
# Packages of optional extras: they alone may be imported inside a function.
EXTRAS = {
    "PIL",
    "constriction",
    "dp_accounting",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "scipy",
    "simpy",
    "sklearn",
    "timm",
    "torchvision",
}
COMMANDS = {
    f"eaves.commands.{path.stem}"
    for path in (_ROOT / "src/eaves/commands").glob("*.py")
    if path.stem not in ("__init__", "main", "flags")
}
# Modules that import ours inside functions.
LATE_IMPORTS = {
    "eaves.__main__": "signals are handled before anything is imported",
    **dict.fromkeys(COMMANDS, "`eaves COMMAND --help` must not wait for torch"),
    "eaves.experiments.access": "an edge needs no cryptography, which makes certificates",
    "eaves.report.planning": "a plan from profiles must not wait for torch",
}
# Modules whose tests are in another file than tests/<layer>/test_<module>.py.
TESTED_ELSEWHERE = {
    "eaves.network.checkpoints": "tests/network/test_trainer.py",  # the trainer's parts, as it
    "eaves.network.eaves_pb2": "tests/network/test_wire.py",  # generated
    "eaves.network.counts": "tests/network/test_trainer.py",  # uses them
    "eaves.network.health": "tests/network/test_server.py",  # which serves it
    "eaves.network.learning": "tests/network/test_trainer.py",
    "eaves.network.refusals": "tests/network/test_trainer.py",
    "eaves.__main__": "tests/test_cli.py",
    **dict.fromkeys(COMMANDS, "tests/test_cli.py"),  # what is printed, as a stranger sees it
    "eaves.commands.main": "tests/test_cli.py",
    "eaves.commands.flags": "tests/test_cli_flags.py",
    "eaves.nets.resnet": "tests/nets/test_nets.py",  # one set of laws for all of our nets
    "eaves.nets.vgg": "tests/nets/test_nets.py",
    "eaves.nets.small": "tests/nets/test_nets.py",
    "eaves.report.exporting": "tests/test_cli_device.py",
    "eaves.report.light": "tests/test_cli_device.py",
    "eaves.report.inferring": "tests/test_cli_network.py",  # what is printed, as a stranger sees it
    "eaves.report.choices": "tests/test_cli.py",  # what is printed, as a stranger sees it
    "eaves.report.session": "tests/test_cli.py",
    "eaves.report.verifying": "tests/experiments/test_verifying.py",
    "eaves.report.stdout": "tests/test_cli.py",
    "eaves.runtime.stages": "tests/runtime/test_pipeline.py",  # a stage alone does nothing
    "eaves.runtime.traffic": "tests/runtime/test_pipeline.py",
}

Sources = Mapping[str, ast.Module]
Rule = Callable[[Sources], list[str]]


def _parse_package() -> tuple[Sources, dict[str, str]]:
    """Return the tree and the text of every module, by its dotted name (packages by theirs)."""
    texts = {}
    for path in sorted((_ROOT / "src" / "eaves").rglob("*.py")):
        parts = path.relative_to(_ROOT / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        texts[name] = path.read_text(encoding="utf-8")
    return {name: ast.parse(text) for name, text in texts.items()}, texts


SOURCES, TEXTS = _parse_package()
PACKAGES = {name.rpartition(".")[0] for name in SOURCES} - {""}

# Sizes


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def long_functions(sources: Sources) -> list[str]:
    found = []
    for module, tree in sources.items():
        for function in _functions(tree):
            has_docstring = ast.get_docstring(function) is not None
            lines = _lines(function) - (_lines(function.body[0]) if has_docstring else 0)
            if lines > FUNCTION_LINES:
                found.append(f"{module}.{function.name}: {lines} lines")
    return found


def long_classes(sources: Sources) -> list[str]:
    return [
        f"{module}.{node.name}: {_lines(node)} lines"
        for module, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and _lines(node) > CLASS_LINES
    ]


def long_files(texts: Mapping[str, str]) -> list[str]:
    counts = {module: len(text.splitlines()) for module, text in texts.items()}
    return [f"{module}: {n} lines" for module, n in counts.items() if n > FILE_LINES]


def many_parameters(sources: Sources) -> list[str]:
    found = []
    for module, tree in sources.items():
        methods = {
            id(function)
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for function in node.body
            if isinstance(function, ast.FunctionDef) and not _decorated(function, "staticmethod")
        }
        for function in _functions(tree):
            args = function.args
            names = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            count = sum(name is not None for name in names) - (id(function) in methods)
            if count > PARAMETERS:
                found.append(f"{module}.{function.name}: {count} parameters")
    return found


# Families of classes


def _decorated(node: ast.FunctionDef | ast.ClassDef, name: str) -> bool:
    return any(ast.unparse(decorator).split(".")[-1] == name for decorator in node.decorator_list)


def _bases(sources: Sources) -> dict[str, list[str]]:
    """Return the bases of every class by full name; those from elsewhere as they are written."""
    bases = {}
    for module, tree in sources.items():
        known = _imported_names(tree) | {
            node.name: f"{module}.{node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                written = [ast.unparse(base).partition("[")[0] for base in node.bases]
                bases[f"{module}.{node.name}"] = [known.get(name, name) for name in written]
    return bases


def _imported_names(tree: ast.Module) -> dict[str, str]:
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def deep_families(sources: Sources) -> list[str]:
    bases = _bases(sources)

    def longest(name: str) -> list[str]:
        above = [longest(base) for base in bases[name] if base in bases]
        return [*max(above, key=len, default=[]), name]

    chains = [longest(name) for name in bases]
    allowed = [DEEPER.get(chain[0], DEPTH) for chain in chains]
    return [
        " < ".join(chain) for chain, n in zip(chains, allowed, strict=True) if len(chain) - 1 > n
    ]


def neither_abstract_nor_final(sources: Sources) -> list[str]:
    """Complain about classes that others may extend by accident, and about derived final ones."""
    bases = _bases(sources)
    derived = {base for names in bases.values() for base in names}
    found = []
    for module, tree in sources.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            name, final = f"{module}.{node.name}", _decorated(node, "final")
            abstract = any(_decorated(f, "abstractmethod") for f in _functions_of(node))
            if final and (abstract or name in derived):
                found.append(f"{name} is @final, but abstract or derived from")
            if not final and not abstract and name not in derived:
                found.append(f"{name} is neither abstract nor @final")
    return found


def _functions_of(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]


# Imports


def _imports(module: str, tree: ast.AST, modules: set[str]) -> set[str]:
    """Return the modules that ``tree`` imports when it runs, wherever the statement stands."""
    found = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = inside & modules
            found |= submodules
            if len(submodules) < len(inside):
                found.add(str(node.module))
        pending += ast.iter_child_nodes(node)
    return found


def import_cycles(sources: Sources) -> list[str]:
    modules = set(sources)
    graph = {name: _imports(name, tree, modules) & modules for name, tree in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def late_imports(sources: Sources) -> list[str]:
    """Complain about imports inside functions: only those of optional extras are wanted."""
    found = []
    for module, tree in sources.items():
        for function in _functions(tree):
            for name in sorted(_imports(module, function, set(sources))):
                package = name.partition(".")[0]
                if package not in EXTRAS and not (package == "eaves" and module in LATE_IMPORTS):
                    found.append(f"{module}.{function.name} imports {name}")
    return found


_PICKLING = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
_UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save", "yaml.load"}


def unsafe(sources: Sources) -> list[str]:
    """Complain about code that runs, or may run, what it reads."""
    found = []
    for module, tree in sources.items():
        names = _imported_names(tree)
        imported = _imports(module, tree, set(sources))
        found += [f"{module} imports {n}" for n in imported if n.partition(".")[0] in _PICKLING]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            written = ast.unparse(node.func)
            if names.get(written, written) in _UNSAFE_CALLS:
                found.append(f"{module}:{node.lineno} calls {written}")
            if any(keyword.arg == "allow_pickle" for keyword in node.keywords):
                found.append(f"{module}:{node.lineno} gives allow_pickle")
    return found


# Documents and tests


def without_docstring(sources: Sources) -> list[str]:
    return [module for module, tree in sources.items() if not ast.get_docstring(tree)]


def busy_packages(sources: Sources) -> list[str]:
    """Complain about an ``__init__`` below the root that does more than say what is there."""
    packages = PACKAGES | {name.rpartition(".")[0] for name in sources}
    return [
        f"{name}/__init__.py has code"
        for name, tree in sources.items()
        if name in packages and name != "eaves" and len(tree.body) > 1
    ]


def without_tests(sources: Sources, root: Path = _ROOT) -> list[str]:
    found = []
    for module in sorted(set(sources) - PACKAGES):
        *layers, name = module.split(".")[1:]
        usual = "/".join(["tests", *layers, f"test_{name}.py"])
        expected = TESTED_ELSEWHERE.get(module, usual)
        if not (root / expected).is_file():
            found.append(f"{module} has no {expected}")
    return found


# The rules, held against the package and against what breaks them

RULES: dict[str, tuple[Rule, str]] = {
    "function of 40 lines": (
        long_functions,
        'def f():\n    """Not counted."""\n' + "    x = 1\n" * FUNCTION_LINES,
    ),
    "class of 250 lines": (long_classes, "class C:\n" + "    x = 1\n" * CLASS_LINES),
    "7 parameters": (
        many_parameters,
        """
        class C:
            def f(self, a, b, c, /, d, *, e, f, g, **h): ...
        """,
    ),
    "7 parameters, in a function": (many_parameters, "def f(a, b, c, d, e, f, g, *h): ..."),
    "inheritance depth": (
        deep_families,
        """
        from torch import nn
        class A(nn.Module): ...
        class B(A): ...
        class C(B): ...
        """,
    ),
    "abstract or final": (neither_abstract_nor_final, "class C: ..."),
    "final is final": (
        neither_abstract_nor_final,
        """
        from typing import final
        @final
        class C: ...
        @final
        class D(C): ...
        """,
    ),
    "no import of itself": (import_cycles, "import bad"),
    "no late import": (late_imports, "def f():\n    from eaves.core import net"),
    "no late import of others": (late_imports, "def f():\n    import torch"),
    "no pickle": (unsafe, "def f():\n    from pickle import loads"),
    "no torch.load": (unsafe, "import torch\ntorch.load('x')"),
    "no torch.load by another name": (unsafe, "from torch import load as read\nread('x')"),
    "no eval": (unsafe, "eval('1')"),
    "no exec": (unsafe, "exec('1')"),
    "no pickled arrays": (unsafe, "import numpy as np\nnp.load('x', allow_pickle=True)"),
    "module docstring": (without_docstring, "x = 1"),
}


@pytest.mark.parametrize(
    "rule", dict.fromkeys(rule for rule, _ in RULES.values()), ids=lambda rule: rule.__name__
)
def test_rule_holds(rule: Rule) -> None:
    assert rule(SOURCES) == []


@pytest.mark.parametrize("name", RULES)
def test_rule_can_be_broken(name: str) -> None:
    rule, snippet = RULES[name]
    complaints = rule({"bad": ast.parse(textwrap.dedent(snippet))})
    assert len(complaints) == 1, complaints


def test_the_edges_of_the_budgets_are_allowed() -> None:
    function = 'def f(a, b, c, d, e, f, g):\n    """Not\n    counted."""\n' + "    x = 1\n" * (
        FUNCTION_LINES - 1
    )
    methods = "class C:\n    def f(self, a, b, c, d, e, f, g): ...\n"
    tree = ast.parse(function + methods)
    assert long_functions({"good": tree}) == []
    assert many_parameters({"good": tree}) == []


def test_files_are_short() -> None:
    assert long_files(TEXTS) == []
    assert long_files({"bad": "\n" * (FILE_LINES + 1)}) == [f"bad: {FILE_LINES + 1} lines"]


def test_packages_hold_a_docstring_only() -> None:
    assert busy_packages(SOURCES) == []
    bad = {"bad": ast.parse('"""Doc."""\nimport bad.child'), "bad.child": ast.parse("")}
    assert busy_packages(bad) == ["bad/__init__.py has code"]


def test_cycles_through_other_modules_are_found() -> None:
    pair = {"a": ast.parse("from b import x"), "b": ast.parse("def f():\n    import a")}
    assert len(import_cycles(pair)) == 1
    only_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a"
    assert import_cycles(pair | {"b": ast.parse(only_types)}) == []


def test_every_module_has_its_tests() -> None:
    assert without_tests(SOURCES) == []


def test_missing_tests_are_found(tmp_path: Path) -> None:
    (tmp_path / "tests" / "core").mkdir(parents=True)
    (tmp_path / "tests" / "core" / "test_new.py").touch()
    sources = {"eaves.core.new": ast.parse(""), "eaves.newer": ast.parse("")}
    assert without_tests(sources, tmp_path) == ["eaves.newer has no tests/test_newer.py"]


@pytest.mark.parametrize(
    ("exceptions", "rule"),
    [(DEEPER, deep_families), (LATE_IMPORTS, late_imports), (TESTED_ELSEWHERE, without_tests)],
)
def test_exceptions_are_still_needed(
    exceptions: dict[str, object], rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rule(SOURCES) == []
    names = list(exceptions)
    for name in names:
        monkeypatch.delitem(exceptions, name)
    complaints = rule(SOURCES)
    for name in names:
        about = [said for said in complaints if said.startswith((f"{name}.", f"{name} "))]
        assert about, f"{name} needs no exception any more"


# What importing costs


def _loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


_HEAVY = {"torch", "sklearn", "PIL", "matplotlib", "simpy"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("eaves", {*_HEAVY, "numpy"}),
        ("eaves.commands.main", {*_HEAVY, "numpy"}),
        ("eaves.experiments.config", {*_HEAVY, "numpy"}),
        ("eaves.experiments.planconfig", {*_HEAVY, "numpy"}),
        ("eaves.experiments.planning", _HEAVY),  # simulated fleets need numpy
        ("eaves.report.planning", _HEAVY),
        ("eaves.report.plans", _HEAVY),
        ("eaves.report.light", {*_HEAVY, "safetensors", "onnx"}),
    ],
)
def test_import_loads_no_torch(module: str, heavy: set[str]) -> None:
    loaded = _loaded_by(f"import {module}")
    assert module in loaded
    assert not loaded & heavy
