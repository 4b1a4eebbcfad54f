"""Paying with a command: real processes, so in real time."""

import os
import select
import sys
from pathlib import Path

import anyio
import pytest

from sms4sats_async.cli.paying import CommandFailed, PayCommand

pytestmark = pytest.mark.real_time
INVOICE = "lnbc15u1" + "q" * 20


def python(program: str, *arguments: str) -> PayCommand:
    return PayCommand(" ".join([sys.executable, "-c", f'"{program}"', *arguments]))


@pytest.mark.parametrize(
    ("arguments", "got"),
    [((), [INVOICE]), (("pay", "{}", "-f"), ["pay", INVOICE, "-f"]), (("--to=lightning:{}",), [f"--to=lightning:{INVOICE}"])],
)
async def test_the_invoice_takes_its_place_or_comes_last(arguments: tuple[str, ...], got: list[str], tmp_path: Path) -> None:
    paper = tmp_path / "arguments"
    await python(f"import sys; open('{paper}', 'w').write(repr(sys.argv[1:]))", *arguments)(INVOICE)
    assert paper.read_text() == repr(got)


async def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    await PayCommand(f"echo ; touch {tmp_path / 'file'}")(INVOICE)
    assert not (tmp_path / "file").exists()


async def test_a_command_that_fails_tells_its_last_line_harmlessly() -> None:
    with pytest.raises(CommandFailed) as caught:
        await python(r"import sys; print('one'); sys.exit('no \x1b[31mroute')")(INVOICE)
    assert str(caught.value).endswith("ended with 1: no \\x1b[31mroute")
    with pytest.raises(CommandFailed, match=r"false ended with 1$"):
        await PayCommand("false")(INVOICE)


async def test_a_command_that_cannot_be_started_has_failed(tmp_path: Path) -> None:
    wallet = tmp_path / "wallet"
    wallet.write_text("\x7fELF is what it says")
    wallet.chmod(0o755)
    with pytest.raises(CommandFailed, match="wallet: Exec format error"):
        await PayCommand(str(wallet))(INVOICE)


async def test_it_has_nothing_to_read_and_a_session_of_its_own() -> None:
    with pytest.raises(CommandFailed) as caught:
        await python("import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == os.getpid()); sys.exit(3)")(INVOICE)
    assert str(caught.value).endswith("ended with 3: '' True")


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_command_that_is_given_up_has_ended(stubborn: bool, tmp_path: Path) -> None:
    paper = tmp_path / "pid"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    command = python(f"import os, signal, time; {ignore}open('{paper}', 'w').write(str(os.getpid())); time.sleep(60)")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(command, INVOICE)
        with anyio.fail_after(30):
            while not paper.exists() or not paper.read_text():  # noqa: ASYNC110 - what is waited for is another process
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(int(paper.read_text()), 0)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_command_that_is_given_up_takes_with_it_whom_it_has_let_pay(stubborn: bool, tmp_path: Path) -> None:
    wallet = tmp_path / "wallet"
    os.mkfifo(wallet)
    heard = os.open(wallet, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ignore = "trap '' TERM; " if stubborn else ""
        script = tmp_path / "script"
        script.write_text(f"({ignore}echo begun; sleep 30; echo paid) >{wallet} & wait")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(PayCommand(f"sh {script}"), INVOICE)
            with anyio.fail_after(30):
                while not select.select([heard], [], [], 0)[0] or not os.read(heard, 99):  # noqa: ASYNC110 - likewise
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        select.select([heard], [], [], 5)
        assert os.read(heard, 99) == b""  # nobody is left who could write
    finally:
        os.close(heard)


async def test_a_command_has_ended_when_it_has_whatever_it_leaves_behind() -> None:
    with anyio.fail_after(8), pytest.raises(CommandFailed, match=r"sh ended with 4: said$"):
        await PayCommand("sh -c 'echo said; sleep 9 & exit 4'")(INVOICE)


async def test_a_command_that_prints_a_lot_tells_its_last_line() -> None:
    with pytest.raises(CommandFailed, match=r"ended with 1: no route$"):
        await python(r"import sys; print('x' * 99999); sys.exit('no route')")(INVOICE)
