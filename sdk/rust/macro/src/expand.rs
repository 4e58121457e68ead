//! From the attributed function to what stands beside it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, FnArg, Ident, ItemFn, LitBool, Result, Token, Type};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Task,
    Event,
    EventBatch,
}

/// `#[event(packed = false)]`.
struct Options {
    packed: bool,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.is_empty() {
            return Ok(Self { packed: true });
        }
        let name: Ident = input.parse()?;
        if name != "packed" {
            return Err(Error::new(
                name.span(),
                "unknown option; there is `packed = false`",
            ));
        }
        input.parse::<Token![=]>()?;
        let packed = input.parse::<LitBool>()?.value;
        input.parse::<Option<Token![,]>>()?;
        Ok(Self { packed })
    }
}

/// The function, and on a mistake an error beside it, so that the editor still understands the rest of the file.
pub fn handler(kind: Kind, options: TokenStream, function: &TokenStream) -> TokenStream {
    let beside = syn::parse2::<ItemFn>(function.clone())
        .map_err(|error| {
            Error::new(
                error.span(),
                "this attribute makes a function a handler; here is no function",
            )
        })
        .and_then(|function| glue(kind, options, &function));
    match beside {
        Ok(beside) => quote! {
            #[allow(clippy::needless_pass_by_value, reason = "a handler owns what was read for it")]
            #function
            #beside
        },
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #function #error }
        }
    }
}

fn glue(kind: Kind, options: TokenStream, function: &ItemFn) -> Result<TokenStream> {
    let span = options.span();
    let options: Options = syn::parse2(options)?;
    if !options.packed && kind != Kind::Event {
        return Err(Error::new(span, "`packed` is an option of `event` only"));
    }
    plain(function)?;
    let (name, visibility) = (&function.sig.ident, &function.vis);
    let body = match kind {
        Kind::Task => single(function, &quote!(Task)),
        Kind::Event => single(function, &quote!(Event)),
        Kind::EventBatch => batch(function)?,
    };
    let exports = match (kind, options.packed) {
        (Kind::Task, _) => vec![quote!(task::__export_task)],
        (Kind::Event, true) => vec![
            quote!(event::__export_event),
            quote!(packed_event::__export_packed_event),
        ],
        (Kind::Event, false) => vec![quote!(event::__export_event)],
        (Kind::EventBatch, _) => vec![quote!(event_batch::__export_event_batch)],
    };
    let interface = if kind == Kind::EventBatch {
        quote!(BatchHandler)
    } else {
        quote!(Handler)
    };
    Ok(quote! {
        #[doc(hidden)]
        #[allow(non_camel_case_types, dead_code, reason = "named as the function it stands for")]
        #visibility struct #name {}
        #body
        // Natively nothing calls a handler that has no test: it is no dead code all the same.
        const _: () = { let _ = <#name as ::helix_sdk::rt::#interface>::call; };
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Exported = ::helix_sdk::rt::bindings::Export<#name>;
            #(::helix_sdk::rt::bindings::#exports!(Exported);)*
        };
    })
}

/// Every argument is made from the message by what its type says.
fn single(function: &ItemFn, kind: &TokenStream) -> TokenStream {
    let name = &function.sig.ident;
    let arguments = function.sig.inputs.iter().map(|argument| {
        let span = argument.span();
        quote::quote_spanned!(span => ::helix_sdk::FromMessage::from_message(context)?)
    });
    quote! {
        impl ::helix_sdk::rt::Handler for #name {
            const KIND: ::helix_sdk::rt::Kind = ::helix_sdk::rt::Kind::#kind;
            fn call(context: &::helix_sdk::Context<'_>) -> ::helix_sdk::Handled {
                ::helix_sdk::IntoHandled::into_handled(#name(#(#arguments),*))
            }
        }
    }
}

/// One argument: `Batch<E>` or a slice of E.
fn batch(function: &ItemFn) -> Result<TokenStream> {
    let name = &function.sig.ident;
    let mut arguments = function.sig.inputs.iter();
    let (Some(FnArg::Typed(argument)), None) = (arguments.next(), arguments.next()) else {
        return Err(Error::new(
            function.sig.inputs.span(),
            "a batch handler takes one argument: `events: &[Event<T>]` or `batch: Batch<Event<T>>`",
        ));
    };
    let argument = match &*argument.ty {
        Type::Reference(_) => quote!(&batch),
        _ => quote!(batch),
    };
    Ok(quote! {
        impl ::helix_sdk::rt::BatchHandler for #name {
            fn call(contexts: &[::helix_sdk::Context<'_>]) -> ::std::vec::Vec<::helix_sdk::Handled> {
                let (batch, pending) = ::helix_sdk::rt::extract(contexts);
                pending.finish(#name(#argument))
            }
        }
    })
}

fn plain(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if let Some(asyncness) = &signature.asyncness {
        return Err(Error::new(
            asyncness.span(),
            "a handler is called synchronously: remove `async`, fetch waits by itself",
        ));
    }
    let types = signature
        .generics
        .params
        .iter()
        .find(|parameter| !matches!(parameter, syn::GenericParam::Lifetime(_)));
    if let Some(parameter) = types {
        return Err(Error::new(
            parameter.span(),
            "a handler cannot be generic: the host could not say over what",
        ));
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return Err(Error::new(
            receiver.span(),
            "a handler is a free function, without `self`",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Kind, options: TokenStream, function: &TokenStream) -> String {
        handler(kind, options, function).to_string()
    }

    #[test]
    fn mistakes_are_named_and_the_function_stays() {
        let cases = [
            (
                Kind::Task,
                quote!(),
                quote!(
                    async fn f() {}
                ),
                "called synchronously",
            ),
            (
                Kind::Task,
                quote!(),
                quote!(
                    fn f<T>(it: Json<T>) {}
                ),
                "cannot be generic",
            ),
            (
                Kind::Event,
                quote!(),
                quote!(
                    fn f(&self) {}
                ),
                "without `self`",
            ),
            (
                Kind::EventBatch,
                quote!(),
                quote!(
                    fn f() -> Vec<Handled> {}
                ),
                "takes one argument",
            ),
            (
                Kind::EventBatch,
                quote!(),
                quote!(
                    fn f(a: A, b: B) -> Vec<Handled> {}
                ),
                "takes one argument",
            ),
            (
                Kind::Event,
                quote!(fast),
                quote!(
                    fn f() {}
                ),
                "unknown option",
            ),
            (
                Kind::Task,
                quote!(packed = false),
                quote!(
                    fn f() {}
                ),
                "option of `event` only",
            ),
            (
                Kind::Task,
                quote!(),
                quote!(
                    struct F;
                ),
                "here is no function",
            ),
        ];
        for (kind, options, function, words) in cases {
            let text = said(kind, options, &function);
            assert!(
                text.contains("compile_error") && text.contains(words),
                "{words}: {text}"
            );
            assert!(text.starts_with(&function.to_string()), "{text}");
        }
    }

    #[test]
    fn each_handler_exports_its_interfaces_and_no_more() {
        let exports = |kind, options| {
            let text = said(
                kind,
                options,
                &quote!(
                    fn f(it: It) {}
                ),
            );
            assert!(!text.contains("compile_error"), "{text}");
            let mut found: Vec<_> = text
                .split("__export_")
                .skip(1)
                .filter_map(|rest| rest.split(' ').next())
                .collect();
            found.sort_unstable();
            found.join(" ")
        };
        assert_eq!(exports(Kind::Task, quote!()), "task");
        assert_eq!(exports(Kind::Event, quote!()), "event packed_event");
        assert_eq!(exports(Kind::Event, quote!(packed = true,)), "event packed_event");
        assert_eq!(exports(Kind::Event, quote!(packed = false)), "event");
        assert_eq!(exports(Kind::EventBatch, quote!()), "event_batch");
    }
}
