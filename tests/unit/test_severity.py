"""What the output of a run that did not fail is judged to be."""

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.severity import Severity, SeverityRule, severity_of

SUCCESS, WARNING, ERROR = Severity.SUCCESS, Severity.WARNING, Severity.ERROR


@pytest.mark.parametrize(
    "output",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n\t ", id="blank"),
        pytest.param("All 12 checks passed.", id="nothing said"),
        pytest.param("Tudo certo por aqui.", id="nothing said, Portuguese"),
    ],
)
def test_output_without_alarm_is_success(output: str) -> None:
    assert severity_of(output) is SUCCESS


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param("SEVERITY: success\nfatal error", SUCCESS, id="overrules error words"),
        pytest.param("SEVERITY: warning", WARNING, id="warning"),
        pytest.param("all fine\nSEVERITY: error", ERROR, id="error without error words"),
        pytest.param("sEvErItY: SUCCESS\nfailed", SUCCESS, id="any case"),
        pytest.param("  \tSEVERITY :  error \t", ERROR, id="whitespace"),
        pytest.param("SEVERITY: success\r\n2 errors\r\n", SUCCESS, id="CRLF"),
        pytest.param("**SEVERITY: success**\nfailed", SUCCESS, id="bold line"),
        pytest.param("**Severity:** success\nfailed", SUCCESS, id="bold key"),
        pytest.param("**Severity**: `success`.\nfailed", SUCCESS, id="bold key, code value"),
        pytest.param("- Severity: warning\nfailed", WARNING, id="list item"),
        pytest.param("> ## _Severity: success_\nfailed", SUCCESS, id="quote, heading, emphasis"),
        pytest.param('severity: "success"\nfailed', SUCCESS, id="YAML"),
        pytest.param("\x1b[1mSEVERITY: success\x1b[0m\nfailed", SUCCESS, id="terminal colours"),
        pytest.param("SEVERITY: error\n…\nSEVERITY: success", SUCCESS, id="last of two wins"),
        pytest.param("SEVERITY: success\nSEVERITY: high", SUCCESS, id="unknown value is no line"),
        pytest.param("SEVERITY: success|warning|error", ERROR, id="template echo is words"),
        pytest.param("I set SEVERITY: success\nfailed", ERROR, id="inside a sentence is words"),
    ],
)
def test_severity_line_decides(output: str, expected: Severity) -> None:
    assert severity_of(output) is expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param('{"severity": "error"}', ERROR, id="error"),
        pytest.param('{"severity": "Success", "note": "failed"}', SUCCESS, id="overrules words"),
        pytest.param(
            '\n {"a": {"severity": "error"}, "severity": "warning"} ', WARNING, id="outer"
        ),
        pytest.param(
            '{\n  "items": [\n    {\n      "severity": "error"\n}],\n  "severity": "success"\n}',
            SUCCESS,
            id="printed over many lines",
        ),
        pytest.param('```json\n{"severity": "success", "n": "fatal"}\n```', SUCCESS, id="fenced"),
        pytest.param('{"severity": "high", "note": "failed"}', ERROR, id="unknown value is words"),
        pytest.param('{"severity": 3, "errors": 0, "warnings": []}', SUCCESS, id="number is words"),
        pytest.param('{"severity": null, "warnings": 2}', WARNING, id="null is words"),
        pytest.param('["severity", "error"]', ERROR, id="array is words"),
        pytest.param('{"severity": "success", failed', ERROR, id="broken JSON is words"),
        pytest.param('Result: {"severity": "success"} failed', ERROR, id="not the whole output"),
        pytest.param('{"a":' * 100_000, SUCCESS, id="too deep to read"),
    ],
)
def test_json_object_decides(output: str, expected: Severity) -> None:
    assert severity_of(output) is expected


def test_severity_line_outranks_json() -> None:
    assert severity_of('{"severity":\n"error", "x":\nseverity: success\n}') is SUCCESS


ERROR_WORDS = """
    crítico crítica críticos críticas critico criticas erro erros falha falhas falhou falharam
    fail fails failed failing failure failures error errors critical fatal exception
    exceptions ERRO Falhou FAILED Error CRÍTICO cri\u0301tico error(s)
"""


@pytest.mark.parametrize("word", ERROR_WORDS.split())
def test_error_word_is_error(word: str) -> None:
    assert severity_of(f"the disk check: {word}!") is ERROR


WARNING_WORDS = """
    alerta alertas atenção atencao ATENÇÃO atenc\u0327a\u0303o warning warnings Warning aviso
    avisos vulnerability vulnerabilities vulnerable vulnerabilidade vulnerabilidades
    vulnerável deprecated caution cautions
"""


@pytest.mark.parametrize("word", WARNING_WORDS.split())
def test_warning_word_is_warning(word: str) -> None:
    assert severity_of(f"the disk check: {word}!") is WARNING


def test_error_words_outrank_warning_words() -> None:
    assert severity_of("warning: deprecated\nwarning: it failed") is ERROR


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(text, id=text)
        for text in (
            "0 errors found",
            "**0** errors",
            "0 error(s), 0 warning(s)",
            "0 failed, 12 passed",
            "12 passed, 0 failed",
            "0 tests failed",
            "0/12 failed",
            "0 of 12 checks failed",
            "zero failures",
            "found 0 vulnerabilities",
            "Result: 0 errors",
            "errors: 0",
            "Failed: 0",
            "Failed: 0 Passed: 12",
            "Errors: 0 | Warnings: 0 | Failed: 0",
            "Errors: 0, Failed: 0",
            "**Errors:** 0",
            "Failed tests: 0",
            "Erros encontrados: 0",
            "ok=3 changed=0 failed=0",
            "| Failed | 0 |",
            "Errors: none",
            "Erros: nenhum.",
            '{"errors": 0, "warnings": [], "exception": null}',
            "no warnings",
            "No errors!",
            'no "fatal" errors',
            "no critical issues",
            "no critical or fatal errors",
            "no known high vulnerabilities",
            "no errors or warnings",
            "no errors, warnings, or failures",
            "no errors and warnings",
            "no errors/warnings",
            "no 404 errors",
            "without errors",
            "finished without any new warnings",
            "free of errors",
            "error-free",
            "not a failure",
            "didn't fail",
            "didn\u2019t fail",
            "did not fail",
            "The job did not find any errors",
            "never failed",
            "nothing failed",
            "none of the tests failed",
            "none of the 12 checks failed",
            "neither errors nor warnings",
            "no longer deprecated",
            "sem erros",
            "sem erros ou avisos",
            "sem falhas críticas",
            "nenhum erro",
            "nenhuma vulnerabilidade crítica",
            "nenhuma das tarefas falhou",
            "nem erros nem avisos",
            "não houve falhas",
            "não é crítico",
            "nao foram encontrados erros",
            "não há erros críticos nem avisos",
            "livre de erros",
            "10 runs, 0 errors",
        )
    ],
)
def test_negated_word_is_no_alarm(output: str) -> None:
    assert severity_of(output) is SUCCESS


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param(text, expected, id=text)
        for text, expected in (
            ("10 errors", ERROR),
            ("100 failed", ERROR),
            ("1,000 errors", ERROR),
            ("3 error(s), 0 warning(s)", ERROR),
            ("errors: 10", ERROR),
            ("errors: 05", ERROR),
            ("Passed: 0 Failed: 3", ERROR),
            ("ok=0 failed=3", ERROR),
            ("3 of 12 failed", ERROR),
            ("0 passed, 3 failed", ERROR),
            ("0 passed 3 failed", ERROR),
            ("0 warnings and 2 errors", ERROR),
            ("0 errors, 2 warnings", WARNING),
            ("2024-05-01 10:00:00 ERROR disk", ERROR),
            ("[0] ERROR disk", ERROR),
            ("no tests ran: 3 errors", ERROR),
            ("no tests ran, errors occurred", ERROR),
            ("no tests ran - fatal", ERROR),
            ("no alarm until it failed", ERROR),
            ("no tests ran (error in setup)", ERROR),
            ("no tests ran\nfatal", ERROR),
            ("no output because of an exception", ERROR),
            ("no errors but deprecated", WARNING),
            ("no errors, but 2 warnings", WARNING),
            ("no warnings and the build failed", ERROR),
            ("no warnings and failed", ERROR),
            ("no warnings, error: disk full", ERROR),
            ("no warnings and errors: 3", ERROR),
            ("No warnings. 2 errors.", ERROR),
            ("no warnings 2 errors", ERROR),
            ("No, it failed", ERROR),
            ("not all tests passed: 1 failed", ERROR),
            ("not only warnings", WARNING),
            ("not without errors", ERROR),
            ("file not found error", ERROR),
            ("no one on the whole team noticed the error", ERROR),
            ("error: no such file", ERROR),
            ("error: none of the hosts answers", ERROR),
            ("error: 0 bytes written", ERROR),
            ("error code: 0", ERROR),
            ("3 errors: 0 fixed", ERROR),
            ("Uploading...failed", ERROR),
            ("---ERROR---", ERROR),
            ("**ERROR**", ERROR),
            ("\x1b[31merror\x1b[0m", ERROR),
            ("3 warnings/errors", ERROR),
            ("não terminou. Falhou!", ERROR),
            ("não terminou porque falhou", ERROR),
            ("não só avisos", WARNING),
            ("sem avisos, mas com 2 erros", ERROR),
        )
    ],
)
def test_negation_stays_in_its_clause(output: str, expected: Severity) -> None:
    assert severity_of(output) is expected


NAMES = """
    errorHandler error_handler.py test_failure_modes --fail-fast --fail error-handler.ts
    src/error.py /var/log/error errors.log non-critical on-error is_error console.error
    ./fatal _error_ error2 https://example.org/error?error=1 C:\\logs\\error failsafe terror
    erroneous errado precaution
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_part_of_a_name_is_no_alarm(name: str) -> None:
    assert severity_of(f"Edited {name} and {name}.") is SUCCESS


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param("", SUCCESS, id="empty"),
        pytest.param("all good", SUCCESS, id="nothing said"),
        pytest.param("0 errors", ERROR, id="no negation"),
        pytest.param("errorHandler", ERROR, id="no word boundaries"),
        pytest.param("CRÍTICO", ERROR, id="any case"),
        pytest.param("critico atencao", SUCCESS, id="accents count"),
        pytest.param("no warnings", WARNING, id="warning"),
        pytest.param("invulnerability", WARNING, id="part of a warning word"),
        pytest.param("warning: failed", ERROR, id="errors outrank warnings"),
        pytest.param("SEVERITY: success\nfatal", ERROR, id="no SEVERITY line"),
        pytest.param('{"severity": "success", "of": "aviso"}', WARNING, id="no JSON"),
    ],
)
def test_substring_rule_is_the_plain_match(output: str, expected: Severity) -> None:
    assert severity_of(output, SeverityRule.SUBSTRING) is expected


# Pieces that the patterns care about, so that random output reaches them.
WORDS = "no not n't 0 12 of errors error: warnings falha não e or and , . / - : = ( ) | { } ```json"
PIECES = st.sampled_from(
    [*WORDS.split(), "\n", "SEVERITY:", "SEVERITY: error\n", '{"severity":', '"error"', "\x1b[1m"]
)
OUTPUTS = st.text() | st.lists(PIECES).map(" ".join) | st.lists(PIECES).map("".join)


@given(OUTPUTS, st.sampled_from(SeverityRule))
def test_every_output_has_a_severity(output: str, rule: SeverityRule) -> None:
    assert isinstance(severity_of(output, rule), Severity)


@given(OUTPUTS, st.sampled_from(Severity))
def test_final_severity_line_always_decides(output: str, severity: Severity) -> None:
    assert severity_of(f"{output}\nSEVERITY: {severity}") is severity


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(unit, id=repr(unit))
        for unit in (
            *("no ", "n't ", "0 ", "0 of ", "no no no error_x ", "no errors, ", "no error and "),
            *("errorerror", "error/", "error-", "no error_x or ", "error a b : ", "errors: 0 "),
            *(" ", "\n", " \n", ".", "a,", "a'", "-", "*", "1", "0:", "x", "\x1b[1", "e\u0301"),
            *("SEVERITY:\n", "SEVERITY: error", "severity: error\n", "{", '{"a":', "```json\n"),
        )
    ],
)
def test_hostile_output_takes_linear_time(unit: str) -> None:
    """A megabyte takes well under a second; anything quadratic would take hours."""
    output = "no error_x no errors " + unit * (1_000_000 // len(unit))
    start = perf_counter()
    severity_of(output)
    assert perf_counter() - start < 5
