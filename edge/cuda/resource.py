"""What lives in a device's context and ends with it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from edge.cuda.libcuda import CudaCallError

if TYPE_CHECKING:
    from edge.cuda.device import Device

log = logging.getLogger(__name__)


class Resource(ABC):
    """What lives in a device's context and is freed once, by its user or with the device."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def _made(self) -> None:
        """The last line of a constructor: what was not finished is not there to be freed."""
        self.device._resources.add(self)

    def free(self) -> None:
        """Give it back; a second call does nothing. No work that uses it may be in flight."""
        if self not in self.device._resources:
            return
        self.device._resources.discard(self)
        if self.device.lost:
            self.device._dead.append(self)
            return
        driver = self.device._cuda.driver
        try:
            self._release()
        except (driver.Error, CudaCallError) as e:  # a dead context took it along
            log.debug("freeing %s: %s", type(self).__name__, e)

    @abstractmethod
    def _release(self) -> None:
        """Give it back to the driver, once."""
