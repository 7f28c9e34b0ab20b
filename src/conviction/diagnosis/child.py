"""The child process of a diagnosis: runs the program under observation, asks the questions, writes the answer.

The answer is a file that is replaced each time more is known, so that a process that is killed has said what it could.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from conviction.diagnosis.judgement import Named, conclude, read_notes, read_other_notes
from conviction.diagnosis.observer import Observer
from conviction.diagnosis.program import Program, Source, seconds_left
from conviction.diagnosis.records import write_fields
from conviction.diagnosis.trials.experiments import try_out
from conviction.findings.observation import Ending, Observation
from conviction.storage import write_text

# Of the time, the program gets this share; the rest is for measuring, experiments and questions.
PROGRAM_SHARE = 0.6
# Seconds kept for the last questions and for writing.
_RESERVE = 1.0
# Seconds between two answers while the program runs.
_MEANWHILE = 4.0


class Child:
    """What the child process was asked to do: a program (text, file, argv), how much of it, and where to answer."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.source = Source(asked["text"], asked["file"], tuple(asked["argv"]), asked["notebook"])
        self.named = Named(asked["file"], asked["named"], asked["folder"])
        self.answer = Path(asked["answer"])
        self.begun, self.seconds = asked["begun"], asked["seconds"]
        self.observer = Observer(steps=asked["steps"], seconds=self._for_program(), stop=True)
        self.notes = read_notes(self.source.text, self.source.file)
        self.telling, self.told = threading.Lock(), threading.Event()
        self.writing = threading.Lock()

    def _for_program(self) -> float:
        begun = time.time() - self.begun
        return max(1.0, PROGRAM_SHARE * self.seconds - begun)

    def work(self) -> None:
        """Run, look, try, ask; every answer takes the place of the one before."""
        self._answer(Observation(0, 0.0, ending=Ending("killed"), notes=self.notes), final=False)
        program = Program(self.source, self._for_program() + 1.0, self._finish)
        threading.Thread(target=self._tell_meanwhile, daemon=True, name="meanwhile").start()
        with self.observer:
            ending = program.run()
        self._finish(ending)

    def _tell_meanwhile(self) -> None:
        """Tell every few seconds what was seen so far: it is all that is left of a program that is killed."""
        while not self.told.wait(_MEANWHILE):
            with contextlib.suppress(Exception):  # the program goes on meanwhile, and what is read may change
                seen = dataclasses.replace(self.observer.glimpse(), ending=Ending("killed"), notes=self.notes)
                with self.writing:
                    if self.telling.locked():
                        return
                    self._answer(seen, final=False)

    def _finish(self, ending: Ending) -> None:
        """Tell what was seen, once: whoever comes second waits until it is told."""
        if not self.telling.acquire(blocking=False):
            self.told.wait(self.seconds)
            return
        try:
            with self.writing:
                self._tell(ending)
        finally:
            self.told.set()

    def _tell(self, ending: Ending) -> None:
        try:
            observation = self.observer.observation()
        except Exception as error:  # the program is over: what it left may be beyond looking at
            self._answer(Observation(0, 0.0, ending=ending, notes=self.notes), final=True, bug=_bug(error))
            return
        notes = (*self.notes, *read_other_notes(self.source.folder, self.source.file))
        observation = dataclasses.replace(observation, ending=ending, notes=notes)
        self._answer(observation, final=False)
        left = seconds_left(self.begun + self.seconds) - _RESERVE
        if left > 0 and observation.backwards:
            observation = try_out(observation, self.observer.captured, left)
        self._answer(observation, final=True)

    def _answer(self, observation: Observation, *, final: bool, bug: str = "") -> None:
        """Write what is known by now."""
        known = write_fields(conclude(observation, self.named))
        told = {"final": final, "bug": bug, "backwards": observation.backwards, "diagnosis": known}
        write_text(self.answer, json.dumps(told))


def _bug(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    told = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {told}, {os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119


def main(path: str) -> None:
    """Do what a file asks for; where that fails by our own fault, the answer says so."""
    asked = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        Child(asked).work()
    except Exception as error:
        write_text(Path(asked["answer"]), json.dumps({"final": True, "bug": _bug(error), "diagnosis": None}))
