"""Measure how the code of detlite is written: python benchmarks/prose.py CHECKOUT [CHECKOUT ...].

Prints a table with one column per checkout, so that two versions can be compared. Only the package ``detlite/`` is
measured; the habits at the end of the table are counted in README.md and docs/ as well. ``docs/parts.md`` is left out
because it is generated from docstrings.
"""

import argparse
import ast
import io
import re
import tokenize
from collections import Counter, namedtuple
from pathlib import Path

PACKAGE = "detlite"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (*FUNCTIONS, ast.ClassDef, ast.Module)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
NOUN_CLAUSE = re.compile(r"(What|Whether|How|Which|Where)\b")
LONG_FUNCTION = 50  # lines
Docstring = namedtuple("Docstring", "line text owner")  # owner: the type of the node that it documents
HABITS = {
    "of its/their/your own": r"\bof (its|their|your) own\b",
    "those that, that of, those of, what is, as it is": r"\b(those that|that of|those of|what is|as it is)\b",
    "beside": r"\bbeside\b",
    "lies, stands, goes on, gone on with": r"\b(lies|stands|goes on|gone on with)\b",
    "so many, somebody, strangers', told, mend": r"\b(so many|somebody|told|mend)\b|\bstrangers'",
    "Whether": r"(?-i:\bWhether\b)",
}


class Source:
    """One parsed Python file.

    Args:
        path: the file.
        checkout: the folder that holds the package.
    """

    def __init__(self, path, checkout):
        text = path.read_text(encoding="utf-8")
        self.path = path.relative_to(checkout).as_posix()
        self.lines = len(text.splitlines())
        self.nodes = list(ast.walk(ast.parse(text)))
        self.docstrings = list(_find_docstrings(self.nodes))
        self.functions = [node for node in self.nodes if isinstance(node, FUNCTIONS)]
        self.comprehensions = self._count(COMPREHENSIONS)
        self.conditionals = self._count(ast.IfExp)

        # Only the tokens tell comments, and lines that hold nothing but a comment or a docstring.
        starts = {docstring.line for docstring in self.docstrings}
        self.comments = []
        self.own_line_comments = 0
        code = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                self.comments.append(token.string.lstrip("# "))
                self.own_line_comments += token.line.lstrip().startswith("#")
            is_docstring = token.type == tokenize.STRING and token.start[0] in starts
            if token.type not in NO_CODE and not is_docstring:
                code.update(range(token.start[0], token.end[0] + 1))
        self.comment_count = len(self.comments)
        self.code_lines = len(code)

    @property
    def folder(self):
        """The top-level folder of the package that holds the file."""
        parts = self.path.split("/")[1:]
        return f"{parts[0]}/" if len(parts) > 1 else "(root)"

    @property
    def density(self):
        """Comprehensions per 100 code lines."""
        return 100 * self.comprehensions / max(self.code_lines, 1)

    def dense_statements(self):
        """Yield (line, reason) of each statement that holds too much, in the order of the file."""
        statements = [node for node in self.nodes if isinstance(node, ast.stmt)]
        for statement in sorted(statements, key=lambda node: node.lineno):
            nodes = list(_expressions(statement))
            count = sum(isinstance(node, COMPREHENSIONS) for node in nodes)
            if count > 1:
                yield statement.lineno, f"{count} comprehensions"
            if any(_holds_conditional(node) for node in nodes):
                yield statement.lineno, "conditional expression in an f-string"

    def _count(self, kinds):
        return sum(isinstance(node, kinds) for node in self.nodes)


def _find_docstrings(nodes):
    for node in nodes:
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield Docstring(node.body[0].lineno, text, type(node))


def _expressions(node):
    """Yield the nodes below a statement, without those of statements inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield child
            yield from _expressions(child)


def _holds_conditional(node):
    return isinstance(node, ast.JoinedStr) and any(isinstance(child, ast.IfExp) for child in ast.walk(node))


def read_package(checkout):
    """Parse the Python files of a checkout's package, sorted by path."""
    paths = sorted((checkout / PACKAGE).rglob("*.py"))
    if not paths:
        raise SystemExit(f"{checkout}: there is no folder {PACKAGE} with Python files")
    return [Source(path, checkout) for path in paths]


def count_habits(checkout, sources):
    """Count the habits of style in docstrings, comments, README.md and docs/: {habit: count}."""
    pages = [checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))]
    texts = [page.read_text(encoding="utf-8") for page in pages if page.exists() and page.name != "parts.md"]
    for source in sources:
        texts.append(" ".join(source.comments))
        texts.extend(docstring.text for docstring in source.docstrings)

    # A habit may be broken over two lines.
    prose = " ".join(" ".join(texts).split())
    return {habit: len(re.findall(pattern, prose, re.IGNORECASE)) for habit, pattern in HABITS.items()}


def measure(checkout, sources):
    """Measure a checkout: {row of the table: text}, in the order of the table."""
    lines = sum(source.lines for source in sources)
    code_lines = sum(source.code_lines for source in sources)
    docstrings = [docstring for source in sources for docstring in source.docstrings]
    of_functions = [docstring for docstring in docstrings if issubclass(docstring.owner, FUNCTIONS)]
    lengths = [node.end_lineno - node.lineno + 1 for source in sources for node in source.functions]
    long = sum(length > LONG_FUNCTION for length in lengths)

    def per_100(attribute):
        count = sum(getattr(source, attribute) for source in sources)
        return f"{100 * count / code_lines:.2f}  ({count:,})"

    rows = {
        "Python files": f"{len(sources):,}",
        "lines": f"{lines:,}",
        "code lines": f"{code_lines:,}",
        "docstrings of functions: noun clause first": f"{len(noun_clauses(of_functions))} of {len(of_functions)}",
        "all docstrings: noun clause first": f"{len(noun_clauses(docstrings))} of {len(docstrings)}",
        "own-line comments / 100 code lines": per_100("own_line_comments"),
        "comments / 100 code lines": per_100("comment_count"),
        "comprehensions / 100 code lines": per_100("comprehensions"),
        "conditional expressions / 100 code lines": per_100("conditionals"),
        f"functions over {LONG_FUNCTION} lines": f"{long} of {len(lengths):,}",
        "longest function, lines": f"{max(lengths, default=0)}",
    }
    habits = count_habits(checkout, sources)
    rows |= {f'habit "{habit}"': f"{count}" for habit, count in habits.items()}

    # The folders come last, because two layouts may have different ones.
    folders = Counter()
    for source in sources:
        folders[source.folder] += source.lines
    return rows | {f"lines of {name}": f"{n:,}  ({100 * n / lines:.1f} %)" for name, n in folders.most_common()}


def noun_clauses(docstrings):
    """Return the docstrings whose first word is one like "What" or "How"."""
    return [docstring for docstring in docstrings if NOUN_CLAUSE.match(docstring.text)]


def print_table(columns):
    """Print the measures: {title of a column: {row: text}}."""
    rows = list(dict.fromkeys(row for measures in columns.values() for row in measures))
    label = max(map(len, rows))
    widths = {title: max(map(len, [title, *measures.values()])) for title, measures in columns.items()}
    print("  ".join([" " * label, *(title.rjust(width) for title, width in widths.items())]))
    for row in rows:
        cells = [columns[title].get(row, "-").rjust(width) for title, width in widths.items()]
        print("  ".join([row.ljust(label), *cells]))


def list_docstrings(sources):
    """Print the docstrings that begin with a noun clause."""
    for source in sources:
        for line, text, owner in noun_clauses(source.docstrings):
            first = text.split("\n")[0]
            print(f"{source.path}:{line}: {owner.__name__}: {first}")


def list_comprehensions(sources):
    """Print the 20 files with the most comprehensions per 100 code lines."""
    for source in sorted(sources, key=lambda source: -source.density)[:20]:
        print(f"{source.density:6.1f}  {source.path}  ({source.comprehensions} in {source.code_lines} code lines)")


def list_dense(sources):
    """Print the statements that hold too much."""
    for source in sources:
        for line, reason in source.dense_statements():
            print(f"{source.path}:{line}: {reason}")


def main():
    """Print the table, and the lists that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkouts", nargs="+", type=Path, metavar="CHECKOUT", help="folder that holds detlite/")
    lists = {"docstrings": list_docstrings, "comprehensions": list_comprehensions}
    parser.add_argument("--list", nargs="?", const="docstrings", choices=lists, help="print what the table counts")
    parser.add_argument("--dense", action="store_true", help="print the statements that hold too much")
    options = parser.parse_args()

    packages = {path: read_package(path) for path in options.checkouts}
    print_table({str(path): measure(path, sources) for path, sources in packages.items()})
    for path, sources in packages.items():
        if options.list:
            print(f"\n{path}: {options.list}")
            lists[options.list](sources)
        if options.dense:
            print(f"\n{path}: dense statements")
            list_dense(sources)


if __name__ == "__main__":
    main()
