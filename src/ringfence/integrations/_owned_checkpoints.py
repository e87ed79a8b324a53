"""OwnedThreads: a checkpointer that gives and takes the current user's threads only."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from ..current import current_scope, current_scope_or_none
from ..errors import ConfigurationError
from ..scope import RequestScope
from ._owned_threads import checked_thread

__all__ = ["OwnedThreads"]


class OwnedThreads(BaseCheckpointSaver[Any]):
    """
    A checkpointer that refuses, at every call, a thread that is not the current user's.

    Lives as long as the graph. It covers what no middleware sees: `aget_state`, `aupdate_state`,
    histories, deletion, and graphs without a middleware::

        graph = builder.compile(checkpointer=OwnedThreads(PostgresSaver(...)))

    Args:
        saver: the checkpointer that keeps them.

    Raises:
        ContextMismatchError: at a call, the thread is another user's, or its id is a bare one.
        NoContextError, ContextClosedError: at a call, nobody is current.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        if not isinstance(saver, BaseCheckpointSaver):
            raise ConfigurationError(
                f"A `{type(saver).__name__}` is no checkpointer.",
                "Give it one, such as `InMemorySaver()`.",
            )
        super().__init__(serde=saver.serde)
        self._saver = saver
        self._opened = _Opened()

    # --- what asks for no thread

    @property
    def config_specs(self) -> list[Any]:
        """As the saver has them."""
        return self._saver.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the saver numbers them."""
        return self._saver.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> OwnedThreads:
        """The same for a saver that may load these types besides."""
        other = OwnedThreads(self._saver.with_allowlist(extra_allowlist))
        other._opened = self._opened
        return other

    # --- one thread

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint of the current user's."""
        return self._saver.get_tuple(self._opened.owned(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint of the current user's."""
        return await self._saver.aget_tuple(self._opened.owned(config))

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        """The checkpoints of one thread; without one they would be everybody's."""
        owned = self._opened.owned(config)
        return self._each(owned, self._saver.list(owned, **options))

    def alist(
        self, config: RunnableConfig | None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints of one thread; without one they would be everybody's."""
        owned = self._opened.owned(config)
        return self._aeach(owned, self._saver.alist(owned, **options))

    def _each(self, owned: Any, found: Iterator[CheckpointTuple]) -> Iterator[CheckpointTuple]:
        """Savers read as they are iterated, which may be where somebody else is current."""
        self._opened.owned(owned)
        for checkpoint in found:
            yield checkpoint
            self._opened.owned(owned)

    async def _aeach(
        self, owned: Any, found: AsyncIterator[CheckpointTuple]
    ) -> AsyncIterator[CheckpointTuple]:
        """The same for what is awaited."""
        self._opened.owned(owned)
        async for checkpoint in found:
            yield checkpoint
            self._opened.owned(owned)

    def put(
        self, config: RunnableConfig, checkpoint: Any, metadata: Any, new_versions: Any
    ) -> RunnableConfig:
        """Keep a checkpoint."""
        return self._saver.put(self._opened.to_write(config), checkpoint, metadata, new_versions)

    async def aput(
        self, config: RunnableConfig, checkpoint: Any, metadata: Any, new_versions: Any
    ) -> RunnableConfig:
        """Keep a checkpoint."""
        return await self._saver.aput(
            self._opened.to_write(config), checkpoint, metadata, new_versions
        )

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep what a step has written."""
        self._saver.put_writes(self._opened.to_write(config), writes, task_id, task_path)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep what a step has written."""
        await self._saver.aput_writes(self._opened.to_write(config), writes, task_id, task_path)

    def get_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Any:
        """What channels went through."""
        return self._saver.get_delta_channel_history(
            config=self._opened.owned(config), channels=channels
        )

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Any:
        """What channels went through."""
        return await self._saver.aget_delta_channel_history(
            config=self._opened.owned(config), channels=channels
        )

    # --- threads by their keys; of runs, it cannot be told whose they are: not implemented

    def delete_thread(self, thread_id: str) -> None:
        """Forget a thread."""
        checked_thread(thread_id)
        self._saver.delete_thread(thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        """Forget a thread."""
        checked_thread(thread_id)
        await self._saver.adelete_thread(thread_id)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy one thread of the current user's to another."""
        checked_thread(source_thread_id)
        checked_thread(target_thread_id)
        self._saver.copy_thread(source_thread_id, target_thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy one thread of the current user's to another."""
        checked_thread(source_thread_id)
        checked_thread(target_thread_id)
        await self._saver.acopy_thread(source_thread_id, target_thread_id)

    def prune(self, thread_ids: Sequence[str], **options: Any) -> None:
        """Prune threads."""
        for thread_id in thread_ids:
            checked_thread(thread_id)
        self._saver.prune(thread_ids, **options)

    async def aprune(self, thread_ids: Sequence[str], **options: Any) -> None:
        """Prune threads."""
        for thread_id in thread_ids:
            checked_thread(thread_id)
        await self._saver.aprune(thread_ids, **options)


class _Opened:
    """
    Which requests have which threads open. Lives as long as the checkpointer.

    A plain `invoke` writes from bare threads, in which nobody is current. Such a write is taken
    where a request that is still open has read the thread, as every run does first.
    """

    def __init__(self) -> None:
        self._threads: WeakKeyDictionary[RequestScope, set[str]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def owned(self, config: RunnableConfig | None) -> Any:
        """The config, if it names a thread of the current user's."""
        key = _key_of(config)
        checked_thread(key)
        with self._lock:
            self._threads.setdefault(current_scope().root, set()).add(key)
        return config

    def to_write(self, config: RunnableConfig) -> RunnableConfig:
        """The same, where nobody may be current."""
        if current_scope_or_none() is None and self._is_open(_key_of(config)):
            return config
        self.owned(config)
        return config

    def _is_open(self, key: str) -> bool:
        with self._lock:
            held = list(self._threads.items())
        return any(root.state == "open" and key in keys for root, keys in held)


def _key_of(config: RunnableConfig | None) -> Any:
    said: Any = {} if config is None else config
    configurable: Mapping[str, Any] = said.get("configurable") or {}
    return configurable.get("thread_id")
