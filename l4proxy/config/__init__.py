"""App and fleet files: YAML text → every fault at once with its place, or frozen `core` values.

| module | what |
| --- | --- |
| `load` | the doors: files and folders → `App`s and a `Fleet`, or ConfigError |
| `yaml_source`, `yaml_words` | text → plain values with the position of each; refuses what YAML should not do here |
| `schema`, `units`, `endpoints` | the whole schema as pydantic models; texts with units, addresses and ports |
| `validate`, `supported` | one document against its model; uses whose feature does not exist yet |
| `app_checks`, `fleet_checks` | what must hold between fields, apps, and apps and their fleet |
| `convert`, `mesh` | valid models → `core` values; the links of a fleet |
| `render` | faults → text with the line, carets, and what to write instead |
"""
