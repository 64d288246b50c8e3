"""`python -m stpath_core` is `stpath`."""

from stpath_core.cli import main

raise SystemExit(main())
