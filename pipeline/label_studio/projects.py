"""Calls about projects: finding, making and changing them, and seeing whether anything in them has moved."""

import logging
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.label_config import ControlChoice, find_control
from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection, always_there
from pipeline.label_studio.drafts import drafts_state
from pipeline.label_studio.parsing import time_in_utc
from pipeline.records import Project, ProjectState

logger = logging.getLogger(__name__)


_PROJECTS = 100
"""Projects per request: more are refused."""


class MissingProjectError(ConfigError):
    """No project has that id or title."""


class ProjectCalls:
    """Part of `door.LabelStudio`."""

    _connection: Connection
    _listed: list[Mapping[str, Any]] | None = None
    """Every project, where `list_projects` has asked for them."""

    @property
    def _here(self) -> str:
        return f"Label Studio at {self._connection.url}"

    def find_project(self, ref: int | str, *, control: ControlChoice | str | None = None) -> Project:
        """The project with this id (a number) or exactly this title, with its label control.

        `control` is the control's name, or how to choose among several controls and images.
        Raises `MissingProjectError` naming the nearest titles, `ConfigError` where several projects share the title or
        the label config has no usable control (`pipeline.label_config.find_control`).
        """
        by_id = isinstance(ref, int) or ref.isdecimal()
        raw = self._by_id(int(ref)) if by_id else self._by_title(str(ref))
        return self._project(raw, control)

    def list_projects(self) -> None:
        """Ask for all projects at once, where one page holds them: `find_project` then asks for nothing more.

        For a door that looks for several projects and is closed soon after: what changes meanwhile is not seen.
        """
        projects, whole = self._page_of_projects({}, 1)
        self._listed = projects if whole else None

    def _by_id(self, project_id: int) -> Mapping[str, Any]:
        listed = self._listed if self._listed is not None else self._matching({"ids": project_id})
        for raw in listed:
            if raw["id"] == project_id:
                return raw
        raise MissingProjectError(f"{self._here} has no project {project_id} (or not for this user)")

    def _by_title(self, title: str) -> Mapping[str, Any]:
        # The server's filter is "contains", in any case.
        listed = self._listed if self._listed is not None else self._matching({"title": title})
        same = [raw for raw in listed if raw["title"] == title]
        if len(same) == 1:
            return same[0]
        if same:
            numbers = sorted(raw["id"] for raw in same)
            raise ConfigError(f"projects {numbers} of {self._here} share the title {title!r}; use the id")
        listed = self._listed if self._listed is not None else self._matching({})
        near = get_close_matches(title, [raw["title"] for raw in listed], n=3, cutoff=0.5)
        hint = f" (near: {', '.join(map(repr, near))})" if near else ""
        raise MissingProjectError(f"{self._here} has no project titled {title!r}{hint}")

    def _matching(self, filters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        number, last = 1, False
        while not last:
            projects, last = self._page_of_projects(filters, number)
            found += projects
            number += 1
        return found

    def _page_of_projects(self, filters: Mapping[str, Any], number: int) -> tuple[list[Mapping[str, Any]], bool]:
        """(projects with their label configs, whether these are the last ones); a list costs less than one project."""
        params = {**filters, "page": number, "page_size": _PROJECTS, "include": "id,title,label_config,created_at"}
        with always_there():
            raw = self._connection.get("/api/projects/", what="listing projects", params=params)
        listed = raw.get("results") if isinstance(raw, dict) else None
        if not isinstance(listed, list) or not all(
            isinstance(each, dict) and isinstance(each.get("id"), int) and isinstance(each.get("title"), str)
            for each in listed
        ):
            raise ServiceError(f"{self._here} answered without a list of projects")
        return listed, not raw.get("next")

    def _settings(self, project_id: int) -> Any:
        return self._connection.get(f"/api/projects/{project_id}/", what=f"reading project {project_id}")

    def _project(self, raw: Mapping[str, Any], control: ControlChoice | str | None) -> Project:
        title = str(raw["title"])
        found = find_control(str(raw["label_config"]), project=f"{raw['id']} ({title})", control=control)
        return Project(
            project_id=int(raw["id"]), title=title, control=found, created_at=time_in_utc(raw.get("created_at"))
        )

    def project_state(self, project: Project, *, answers_only: bool = False, drafts: bool = False) -> ProjectState:
        """What moves when anyone answers, edits, flips `ground_truth`, adds or deletes; one request.

        With `answers_only` only tasks that somebody answered or skipped count, so that our own pushes do not show. With
        `drafts` those are looked at too, at a request for each task that has any: they move nothing else.
        """
        query: dict[str, Any] = {"ordering": ["-tasks:updated_at"]}
        if answers_only:
            query["filters"] = {"conjunction": "or", "items": pages.answered()}
        fields = ("id", "updated_at")
        raw = pages.page(self._connection, project.project_id, query, fields=fields, size=1, answers=False)
        return ProjectState(
            project_id=project.project_id,
            tasks=0 if answers_only else raw["total"],
            annotations=raw["total_annotations"],
            newest_change=str(raw["tasks"][0].get("updated_at", "")) if raw["tasks"] else "",
            drafts=drafts_state(self._connection, project) if drafts else "",
        )

    def create_project(
        self,
        title: str,
        label_config: str,
        *,
        uncertainty_sampling: bool = False,
        description: str = "",
        control: str | None = None,
        skipping: bool = True,
        empty_answers: bool = True,
        overlap: int = 1,
    ) -> Project:
        """A new project. `uncertainty_sampling` serves tasks by ascending score of their prediction.

        `skipping` shows the Skip button, `empty_answers` allows to submit nothing, `overlap` people answer each task.
        Titles need not be unique in Label Studio: call `find_project` first. After a lost answer the title is looked up
        before the error is passed on.
        """
        find_control(label_config, project=title, control=control)
        settings = {
            "title": title,
            "label_config": label_config,
            "description": description,
            "sampling": "Uncertainty sampling" if uncertainty_sampling else "Sequential sampling",
            "show_collab_predictions": True,
            "show_skip_button": skipping,
            "enable_empty_annotation": empty_answers,
            "maximum_annotations": overlap,
        }
        try:
            raw = self._connection.post("/api/projects/", what=f"creating project {title!r}", json=settings)
        except ServiceUnavailable as error:
            try:
                return self.find_project(title, control=control)
            except (ServiceError, ConfigError):
                raise error from None
        logger.info("created project %r (id %s) in Label Studio", title, raw["id"])
        return self._project(raw, control)

    def label_config(self, project: Project) -> str:
        """The XML of the project's screen, as it is now."""
        return str(self._settings(project.project_id)["label_config"])

    def update_label_config(self, project: Project, label_config: str, *, control: str | None = None) -> Project:
        """Give the project another screen; nothing is sent where it has that one already.

        Raises `ConfigError` where the new one lacks the control or a class of `project`: people may have answered with
        it, and Label Studio does not look. Nor does it look whether the tasks there have every variable of the screen.
        """
        found = find_control(label_config, project=project.title, control=control)
        lost = [f"class {name!r}" for name in project.control.classes if name not in found.classes]
        if found.name != project.control.name:
            lost = [f"control {project.control.name!r}"]
        if lost:
            raise ConfigError(
                f"the new screen of project {project.project_id} {project.title!r} lacks {', '.join(lost)}, which "
                "people may have answered with; keep it, or start another review project (FASTEN_REVIEW_PROJECT)"
            )
        raw = self._settings(project.project_id)
        if raw["label_config"] != label_config:
            path, what = f"/api/projects/{project.project_id}/", f"changing the screen of project {project.title!r}"
            raw = self._connection.patch(path, what=what, json={"label_config": label_config})
        return self._project(raw, control)

    def set_overlap(self, project: Project, overlap: int) -> None:
        """Let `overlap` people answer each task that is added from now on; those that are there ask for no more.

        Left to itself, Label Studio gives a new overlap to every task, and serves what was decided long ago to a second
        person before anything else. Where some task has an overlap of its own above one, it changes only such tasks: so
        one that still waits is given the new overlap first. Tasks that wait for their second of three people when the
        overlap is changed again, wait for nobody any more.
        """
        project_id = project.project_id
        whole = f"/api/projects/{project_id}/"
        current = self._settings(project_id)["maximum_annotations"]
        if current == overlap:
            return
        if current > 1:
            self._change(whole, maximum_annotations=1)
        if overlap > 1:
            first = self._one_task(project_id, pages.unanswered()) or self._one_task(project_id, [])
            if first is not None:
                self._change(f"/api/tasks/{first['id']}/", overlap=overlap)
            self._change(whole, maximum_annotations=overlap)
            if first is not None and first["total_annotations"]:  # nothing waits: as it was before
                self._change(f"/api/tasks/{first['id']}/", overlap=1, is_labeled=True)

    def _change(self, path: str, **values: Any) -> None:
        raw = self._connection.patch(path, what=f"changing how many people answer ({path})", json=values)
        left = {name: raw.get(name) for name, value in values.items() if raw.get(name) != value}
        if left:
            raise ServiceError(f"{self._here} left {path} at {left} instead of {values}; look at its log")

    def _one_task(self, project_id: int, all_of: list[pages.Filter]) -> Any:
        query = {"filters": {"conjunction": "and", "items": all_of}}
        fields = ("id", "total_annotations")
        found = pages.page(self._connection, project_id, query, fields=fields, size=1, answers=False)["tasks"]
        return found[0] if found else None
