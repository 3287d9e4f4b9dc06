"""Every file that can be asked for says what it is."""

import ast
import re
from pathlib import Path

import pytest

WORKFLOW = Path(__file__).parents[2] / "workflow"
RULES = {
    name: text
    for path in (WORKFLOW / "rules").glob("*.smk")
    for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rules_script_has_its_name_and_says_in_one_line_what_it_does(rule):
    assert re.findall(r'script:\n +"\.\./scripts/(\w+)\.py"', RULES[rule]) == [rule]
    purpose = ast.get_docstring(ast.parse((WORKFLOW / f"scripts/{rule}.py").read_text()))
    assert re.fullmatch(r"[A-Z][^\n]{20,}\.", purpose.splitlines()[0])
