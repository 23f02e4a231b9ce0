"""Custom parts: IMPORTS in a file, on the command line, and --import."""

import importlib.util
import multiprocessing
import os
import sys

import pytest

from detlite.config import load_config
from detlite.errors import UserError
from detlite.registry import MATCHERS

PART = '''
from detlite.registry import MATCHERS


@MATCHERS.register()
class {name}:
    """A matcher.

    Args:
        level: a key.
    """

    def __init__(self, *, level: int = 3):
        self.level = level
'''


@pytest.fixture(autouse=True)
def leave_nothing_behind():
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def refusal(path=None, opts=(), imports=()):
    with pytest.raises(UserError) as caught:
        load_config(path, opts, imports)
    return str(caught.value)


def level(cfg):
    return MATCHERS.build(cfg.MODEL.RPN.MATCHER).level


def test_a_file_next_to_the_config_brings_its_parts(write, monkeypatch, tmp_path):
    write("parts/own_matcher.py", PART.format(name="OwnMatcher"))
    path = write("own.yaml", "IMPORTS: [./parts/own_matcher.py]\nMODEL: {RPN: {MATCHER: {NAME: OwnMatcher, LEVEL: 5}}}")
    monkeypatch.chdir("/")
    cfg = load_config(path)
    assert level(cfg) == 5
    assert list(cfg.IMPORTS) == [str(tmp_path / "parts" / "own_matcher.py")]
    assert cfg.sources["IMPORTS"] == f"{path}:1"


def test_a_module_on_the_path_brings_its_parts(write, monkeypatch, tmp_path):
    write("own_package/__init__.py", "")
    write("own_package/matchers.py", PART.format(name="OwnMatcher"))
    monkeypatch.syspath_prepend(tmp_path)
    cfg = load_config(write("own.yaml", "IMPORTS: [own_package.matchers]"), ["MODEL.RPN.MATCHER.NAME", "OwnMatcher"])
    assert level(cfg) == 3
    assert list(cfg.IMPORTS) == ["own_package.matchers"]


@pytest.mark.parametrize("value", ["own_matcher.py", "./own_matcher.py", "[own_matcher.py]", ["own_matcher.py"]])
def test_the_command_line_brings_parts_relative_to_where_one_is(write, monkeypatch, tmp_path, value):
    write("own_matcher.py", PART.format(name="OwnMatcher"))
    monkeypatch.chdir(tmp_path)
    cfg = load_config(opts=["IMPORTS", value, "MODEL.RPN.MATCHER.NAME", "OwnMatcher"])
    assert level(cfg) == 3
    assert cfg.sources["IMPORTS"] == "command line"


def test_the_import_option_brings_parts_relative_to_where_one_is(write, monkeypatch, tmp_path):
    write("own_matcher.py", PART.format(name="OwnMatcher"))
    monkeypatch.chdir(tmp_path)
    cfg = load_config(opts=["MODEL.RPN.MATCHER.NAME", "OwnMatcher"], imports=["own_matcher.py"])
    assert level(cfg) == 3
    assert cfg.sources["IMPORTS"] == "--import"


def test_imports_of_all_layers_add_up_each_once(write, tmp_path):
    for name in ("one", "two", "three"):
        write(f"own_{name}.py", PART.format(name=name.title()))
    write("base.yaml", "IMPORTS: [own_one.py]")
    path = write("own.yaml", "_BASE_: base.yaml\nIMPORTS: [own_two.py, ./own_one.py]")
    cfg = load_config(path, imports=[str(tmp_path / "own_three.py"), str(tmp_path / "own_two.py")])
    assert list(cfg.IMPORTS) == [str(tmp_path / f"own_{name}.py") for name in ("one", "two", "three")]
    assert {"One", "Two", "Three"} <= set(MATCHERS)
    assert cfg.sources["IMPORTS"] == f"{tmp_path / 'base.yaml'}:1, {path}:2, --import"


def test_the_resolved_tree_brings_its_parts_from_anywhere(write, tmp_path):
    write("parts/own_matcher.py", PART.format(name="OwnMatcher"))
    cfg = load_config(write("own.yaml", "IMPORTS: [parts/own_matcher.py]\nMODEL: {RPN: {MATCHER: {NAME: OwnMatcher}}}"))
    again = load_config(write("elsewhere/config.yaml", cfg.dump()))
    assert again == cfg
    assert level(again) == 3


def test_loading_twice_imports_once_and_keeps_the_class(write):
    write("own_matcher.py", PART.format(name="OwnMatcher") + "\nprint('imported')\n")
    path = write("own.yaml", "IMPORTS: [own_matcher.py]")
    load_config(path)
    first = MATCHERS.get("OwnMatcher")
    load_config(path)
    assert MATCHERS.get("OwnMatcher") is first


def test_two_files_that_define_one_name_are_refused_with_both_places(write):
    one, two = (write(f"own_{name}.py", PART.format(name="OwnMatcher")) for name in ("one", "two"))
    path = write("own.yaml", "IMPORTS: [own_one.py, own_two.py]")
    assert refusal(path) == (
        f"{path}:1: IMPORTS: MATCHER OwnMatcher is defined twice, at {one}:5 and at {two}:5; rename one"
    )


def test_a_name_that_is_built_in_is_not_replaced(write):
    own = write("own_matcher.py", PART.format(name="MaxIoUMatcher"))
    message = refusal(imports=[str(own)])
    assert message.startswith("--import: MATCHER MaxIoUMatcher is defined twice, at ")
    assert "matcher.py:" in message and f"and at {own}:5; rename one" in message


def test_a_part_that_is_not_imported_is_refused_with_how_to(write):
    message = refusal(opts=["MODEL.RPN.MATCHER.NAME", "OwnMatcher"])
    assert "no MATCHER is called 'OwnMatcher'" in message
    assert message.endswith("a custom part needs its module in IMPORTS or after --import")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("\n1 / 0\n", "{file}:2 fails to import: ZeroDivisionError: division by zero"),
        ("def f():\n    assert 0, 'why'\nf()\n", "{file}:2 fails to import: AssertionError: why"),
        ("x = = 1\n", "{file} fails to import: SyntaxError: invalid syntax (own_broken.py, line 1)"),
        ("import sys\nsys.exit(3)\n", "{file}:2 fails to import: SystemExit: 3"),
        ("import no_such_package.part\n", "{file} needs the module 'no_such_package', which is not installed"),
        ("raise ModuleNotFoundError('x')\n", "{file}:1 fails to import: ModuleNotFoundError: x"),
        (
            "from detlite.registry import MATCHERS\n\n@MATCHERS.register()\ndef A(*, x): ...\n",
            "{file}:3: A: the keyword-only parameter x is a config key and so needs an annotation and a default",
        ),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(write, code, message):
    file = write("own_broken.py", code)
    path = write("own.yaml", "SEED: 1\nIMPORTS: [own_broken.py]\n")
    assert refusal(path).startswith(f"{path}:2: IMPORTS: {message.format(file=file)}")


def test_a_file_can_be_fixed_and_loaded_again(write):
    file = write("own_broken.py", PART.format(name="OwnMatcher") + "1 / 0\n")
    assert "ZeroDivisionError" in refusal(imports=[str(file)])
    write("own_broken.py", PART.format(name="OwnMatcher") + "# fixed, and of another size\n")
    assert level(load_config(opts=["MODEL.RPN.MATCHER.NAME", "OwnMatcher"], imports=[str(file)])) == 3


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("own_matchr.py", "no such file: {folder}/own_matchr.py; did you mean {folder}/own_matcher.py?"),
        ("nowhere/own.py", "no such file: {folder}/nowhere/own.py"),
        ('"a\\0.py"', "no such file: "),
        ("a" * 5000 + ".py", "no such file: "),
        ("no_such_module", "no module is called 'no_such_module'; install its package, or name a file, such as "),
        ("detlite.no_such_module", "no module is called 'detlite.no_such_module'"),
        (
            "./own_matcher",
            "'./own_matcher' is not a module's name; a file needs its ending, such as ./my_parts.py",
        ),
        (".", "'.' is not a module's name"),
        ("..own", "'..own' is not a module's name"),
        ("''", "'' is not a module's name"),
        ("json.py", "{folder}/json.py cannot be imported as 'json': that name belongs to "),
        ("sys.py", "{folder}/sys.py cannot be imported as 'sys': that name belongs to built-in; rename the file"),
        ("own.part.py", "{folder}/own.part.py cannot be imported as 'own.part': that is not a module's name; rename"),
        ("__main__.py", "{folder}/__main__.py cannot be imported as '__main__': "),
    ],
    ids=lambda text: text[:20],
)
def test_a_module_that_cannot_be_found_is_refused_with_the_remedy(write, tmp_path, module, message):
    for name in ("own_matcher", "json", "sys", "own.part", "__main__"):
        write(f"{name}.py", "")
    path = write("own.yaml", f"IMPORTS: [{module}]\n")
    assert refusal(path).startswith(f"{path}:1: IMPORTS: {message.format(folder=tmp_path)}")


@pytest.mark.parametrize("value", ["own_matcher.py", "5", "[5]", "{0: os}", "", "[[os]]"])
def test_imports_that_are_no_list_of_names_are_refused(write, value):
    path = write("own.yaml", f"IMPORTS: {value}\n")
    assert refusal(path).startswith(
        f"{path}:1: IMPORTS: expected a list of modules or .py files such as [./my_parts.py]"
    )


def test_a_file_is_found_that_came_after_its_folder_was_read(write, tmp_path):
    load_config(imports=[str(write("own_one.py", PART.format(name="One")))])
    assert importlib.util.find_spec("own_two") is None  # Python has read the folder
    before = tmp_path.stat()
    second = write("own_two.py", PART.format(name="Two"))
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if both had come in one tick of the clock
    load_config(imports=[str(second)])
    assert "Two" in MATCHERS


def test_files_next_to_an_imported_one_hide_no_installed_module(write, tmp_path):
    write("this.py", "")
    load_config(imports=[str(write("own_matcher.py", PART.format(name="OwnMatcher")))])
    assert importlib.util.find_spec("this").origin != str(tmp_path / "this.py")


def test_two_files_of_one_name_in_two_folders_are_refused(write):
    write("one/own_part.py", "")
    second = write("two/own_part.py", "")
    path = write("own.yaml", "IMPORTS: [one/own_part.py, two/own_part.py]")
    assert f"{second} cannot be imported as 'own_part': that name belongs to" in refusal(path)


def test_a_spawned_process_can_unpickle_an_object_of_a_class_from_a_file(write):
    write("own_matcher.py", PART.format(name="OwnMatcher"))
    path = write("own.yaml", "IMPORTS: [own_matcher.py]\nMODEL: {RPN: {MATCHER: {NAME: OwnMatcher, LEVEL: 7}}}")
    matcher = MATCHERS.build(load_config(path).MODEL.RPN.MATCHER)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(getattr, (matcher, "level")) == 7
