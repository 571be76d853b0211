from procgroup.cli import main

raise SystemExit(main())
