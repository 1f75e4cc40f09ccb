"""App and fleet files: YAML text → every error at once with its place, or frozen `core` values.

| module | what |
| --- | --- |
| `yaml_source` | text → plain values with the position of each; refuses what YAML should not do here |
| `units` | `120s`, `10k`, `1Gbit/s` → numbers |
| `schema` | the whole schema as pydantic models; a field whose feature does not exist yet is refused |
| `load` | files and folders → `App`s and `Fleet`, with the checks that need more than one file |
| `render` | faults → text with the line, a caret and the nearest right name |
"""
