//! A kernel's modules: where they are, what they need, in which order they load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::compress::unpack_module;
use crate::modinfo;

/// Why a module can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The kernel's folder of modules is not there.
    #[error(
        "there are no modules in {0}: install the kernel's package, or name the folder with --modules-dir, or \
         say --no-modules for a kernel with all drivers built in"
    )]
    NoFolder(PathBuf),
    /// One of the kernel's lists, or a module, can't be read.
    #[error("{path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the decompressor said.
        source: io::Error,
    },
    /// A module that was asked for does not exist in this kernel.
    #[error("the kernel {release} has no module {name}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The kernel's release.
        release: String,
    },
    /// A module needs one that is not there.
    #[error("the module {name} needs {needed}, which {folder} does not have: reinstall the kernel's package")]
    Incomplete {
        /// The module.
        name: String,
        /// What it needs.
        needed: String,
        /// The kernel's folder.
        folder: PathBuf,
    },
}

/// A module, unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its path below the kernel's folder, without a compression's ending: `kernel/drivers/…/x.ko`.
    pub path: String,
    /// The names of the modules that it needs, itself not among them.
    pub needs: Vec<String>,
    /// The ELF file.
    pub content: Vec<u8>,
}

impl Module {
    /// The names by which the kernel asks for it.
    pub fn aliases(&self) -> Vec<&str> {
        modinfo::values(&self.content, "alias")
    }
}

/// A kernel's folder of modules, `/lib/modules/RELEASE`.
///
/// Life cycle: [`ModuleTree::open`] reads the lists; [`ModuleTree::closure`] reads the modules.
#[derive(Debug)]
pub struct ModuleTree {
    folder: PathBuf,
    release: String,
    /// Paths below the folder, by name.
    paths: BTreeMap<String, String>,
    /// What `modules.dep` says, by name; none where depmod never ran (a package unpacked by hand).
    needs: Option<BTreeMap<String, Vec<String>>>,
    builtin: BTreeSet<String>,
}

impl ModuleTree {
    /// Reads `modules.dep` (or `modules.order`, where depmod never ran) and `modules.builtin`.
    ///
    /// # Errors
    /// There is no such folder, or neither list.
    pub fn open(folder: &Path, release: &str) -> Result<Self, ModuleError> {
        let builtin = list(&folder.join("modules.builtin"))?.unwrap_or_default();
        let builtin = builtin.lines().map(name_of).collect();
        let dependencies = list(&folder.join("modules.dep"))?;
        let order = list(&folder.join("modules.order"))?;
        let (paths, needs) = match (dependencies, order) {
            (Some(text), _) => parse_dependencies(&text),
            (None, Some(text)) => (present(folder, &text), None),
            (None, None) => return Err(ModuleError::NoFolder(folder.to_owned())),
        };
        Ok(Self { folder: folder.to_owned(), release: release.to_owned(), paths, needs, builtin })
    }

    /// Whether the driver is part of the kernel itself.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normal(name))
    }

    /// Whether there is such a module.
    pub fn has(&self, name: &str) -> bool {
        self.paths.contains_key(&normal(name))
    }

    /// The modules and all that they need, each after what it needs; built-in ones are left out.
    ///
    /// # Errors
    /// A name is neither a module nor built in, or a file can't be read.
    pub fn closure<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Module>, ModuleError> {
        let mut walk = Walk { tree: self, seen: BTreeSet::new(), out: Vec::new() };
        for name in names {
            let name = normal(name);
            if !self.has(&name) && !self.is_builtin(&name) {
                return Err(ModuleError::Unknown { name, release: self.release.clone() });
            }
            walk.visit(&name)?;
        }
        Ok(walk.out)
    }

    fn read(&self, name: &str, path: &str) -> Result<Module, ModuleError> {
        let file = self.folder.join(path);
        let content = fs::read(&file).and_then(|bytes| unpack_module(&file, bytes));
        let content = content.map_err(|source| ModuleError::Read { path: file, source })?;
        let needs = match &self.needs {
            Some(needs) => needs.get(name).cloned().unwrap_or_default(),
            None => needs_of(&content),
        };
        Ok(Module { name: name.to_owned(), path: plain(path).to_owned(), needs, content })
    }
}

/// A depth-first walk; what was seen is not entered again, so that a loop ends.
struct Walk<'a> {
    tree: &'a ModuleTree,
    seen: BTreeSet<String>,
    out: Vec<Module>,
}

impl Walk<'_> {
    fn visit(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.tree.is_builtin(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.tree.paths.get(name) else { return Ok(()) };
        let mut module = self.tree.read(name, path)?;
        module.needs.retain(|needed| !self.tree.is_builtin(needed));
        for needed in &module.needs {
            if !self.tree.has(needed) {
                let (needed, folder) = (needed.clone(), self.tree.folder.clone());
                return Err(ModuleError::Incomplete { name: name.to_owned(), needed, folder });
            }
            self.visit(needed)?;
        }
        self.out.push(module);
        Ok(())
    }
}

/// A text file, or none where there is none.
fn list(path: &Path) -> Result<Option<String>, ModuleError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ModuleError::Read { path: path.to_owned(), source }),
    }
}

type Lists = (BTreeMap<String, String>, Option<BTreeMap<String, Vec<String>>>);

/// `path: needed-path needed-path`, one module a line.
fn parse_dependencies(text: &str) -> Lists {
    let lines = || text.lines().filter_map(|line| line.split_once(':'));
    let paths = lines().map(|(path, _)| (name_of(path), path.to_owned())).collect();
    let needs = lines().map(|(path, needs)| (name_of(path), needs.split_whitespace().map(name_of).collect()));
    (paths, Some(needs.collect()))
}

/// The listed modules by name; the list has plain names whatever the files' compression.
fn present(folder: &Path, order: &str) -> BTreeMap<String, String> {
    let endings = ["", ".xz", ".zst", ".gz"];
    order
        .lines()
        .filter_map(|line| {
            let paths = endings.iter().map(|ending| format!("{}{ending}", plain(line)));
            let path = paths.into_iter().find(|path| folder.join(path).is_file())?;
            Some((name_of(line), path))
        })
        .collect()
}

fn needs_of(content: &[u8]) -> Vec<String> {
    let lists = modinfo::values(content, "depends");
    lists.iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).map(normal).collect()
}

/// A module's path up to `.ko`.
fn plain(path: &str) -> &str {
    path.rfind(".ko").and_then(|at| path.get(..at + ".ko".len())).unwrap_or(path)
}

fn name_of(path: &str) -> String {
    let file = plain(path).rsplit('/').next().unwrap_or_default();
    normal(file.strip_suffix(".ko").unwrap_or(file))
}

/// The kernel takes `-` and `_` for the same.
fn normal(name: &str) -> String {
    name.trim().replace('-', "_")
}

#[cfg(test)]
mod tests;
